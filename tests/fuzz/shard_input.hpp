#pragma once
// A shard's file as the fuzz target `shard` takes it: without the zeros between its object headers
// and its strings, on which most mutations would fall.

#include <string>
#include <string_view>

namespace strata::fuzz {

constexpr std::size_t headers_end = 2048, strings_begin = 16384;

inline std::string shard_input(std::string_view file) {
  return std::string(file.substr(0, headers_end)).append(file.substr(strings_begin));
}

inline std::string shard_file(std::string_view input) {
  std::string file(input.substr(0, headers_end));
  if (input.size() > headers_end)
    file.append(strings_begin - headers_end, '\0').append(input.substr(headers_end));
  return file;
}

}  // namespace strata::fuzz
