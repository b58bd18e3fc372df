#pragma once
// Text files from outside with one record a line.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace strata {

/// Error(65) naming the offset of the first byte that is not UTF-8 (overlong forms, surrogates and
/// values above U+10FFFF included).
void check_utf8(std::string_view text, const std::string& where);

/// Calls `take(line number from 1, line without its LF)`; a CR before the LF is dropped, an empty
/// last line is none. Error(65) for lines over max_bytes or not in UTF-8, naming path and line.
void for_each_line(std::string_view content, const std::string& path, std::size_t max_bytes,
                   const std::function<void(std::int64_t, std::string_view)>& take);

/// For messages: at most 80 bytes, control characters as '?'.
std::string printable(std::string_view text);

}  // namespace strata
