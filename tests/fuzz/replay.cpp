// Runs a fuzz target without libFuzzer: every seed as it is, then mutants of seeds drawn from a
// fixed seed. usage: TARGET FOLDER MUTANTS

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "core/file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t most_bytes = 1 << 16;

void run(const std::string& input) {
  // A copy of its exact size: a sanitizer then sees a read past the end.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

/// Bits turned, bytes put in, taken out and repeated, numbers made extreme, and pieces of another
/// seed.
std::string mutant(std::string text, const std::vector<std::string>& seeds, std::mt19937_64& draw) {
  const auto below = [&](std::size_t n) { return n == 0 ? std::size_t{0} : draw() % n; };
  for (std::size_t i = 1 + below(4); i > 0; --i) {
    const std::size_t at = below(text.size()),
                      length = 1 + below(std::min<std::size_t>(text.size() - at, 32));
    switch (text.empty() ? 1 : below(7)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ 1 << below(8));
        break;
      case 1:
        text.insert(at, 1, static_cast<char>(draw()));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(at, length));
        break;
      case 4: {
        static const char* const extremes[] = {"0",
                                               "-1",
                                               "18446744073709551616",
                                               "9223372036854775807",
                                               "1e400",
                                               "{",
                                               "[[[[[[[[",
                                               "\"",
                                               "null",
                                               "../x",
                                               "\xff\xff\xff\xff"};
        text.replace(at, length, extremes[below(std::size(extremes))]);
        break;
      }
      case 5:
        text.resize(at);
        break;
      default: {
        const std::string& other = seeds[below(seeds.size())];
        text.replace(at, length, other.substr(below(other.size()), 1 + below(64)));
      }
    }
  }
  if (text.size() > most_bytes) text.resize(most_bytes);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1]))
    seeds.push_back(strata::read_file(entry.path().string()));
  std::sort(seeds.begin(), seeds.end());
  if (seeds.empty()) return 65;
  for (const std::string& seed : seeds) run(seed);
  std::mt19937_64 draw(1);
  const long mutants = std::atol(argv[2]);
  for (long i = 0; i < mutants; ++i) run(mutant(seeds[draw() % seeds.size()], seeds, draw));
  std::printf("%zu seeds, %ld mutants\n", seeds.size(), mutants);
  return 0;
}
