#include "core/log.hpp"

#include <cstdio>

namespace strata::log {

namespace {
int this_rank = 0, ranks = 1;
bool quiet = false;

void write(const std::string& text) {
  const std::string line = text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}
}  // namespace

void set_rank(int rank, int size) {
  this_rank = rank;
  ranks = size;
}

void set_quiet(bool value) {
  quiet = value;
}

bool is_shown() {
  return this_rank == 0 && !quiet;
}

void write_info(const std::string& text) {
  if (is_shown()) write(text);
}

void write_warning(const std::string& text) {
  if (quiet) return;
  write(ranks > 1 ? fmt::format("warning (rank {}): {}", this_rank, text) : "warning: " + text);
}

}  // namespace strata::log
