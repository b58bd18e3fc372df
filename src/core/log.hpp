#pragma once
// Human text goes to stderr: one line a message, from rank 0 unless said otherwise.

#include <fmt/format.h>

#include <string>

namespace strata::log {

/// Messages of other ranks than 0 are dropped, except warnings.
void set_rank(int rank, int size);
/// quiet: only errors (the contract of `eval` and `tokenize`).
void set_quiet(bool quiet);
/// Whether info and progress reach the user from here.
bool is_shown();
void write_info(const std::string& text);
void write_warning(const std::string& text);

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write_info(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write_warning(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace strata::log
