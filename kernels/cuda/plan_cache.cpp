#include "kernels/cuda/plan_cache.hpp"

#include <fmt/ranges.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace strata::cuda {

namespace {

constexpr std::size_t most_bytes = 4096;  // of a file

std::string line_of(std::span<const std::int64_t> words) {
  return fmt::format("{}", fmt::join(words, " "));
}

/// Letters and digits of a name, all else as '-'.
std::string as_file_name(std::string name) {
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  return name;
}

/// The text of a file: what it is of, the choice, and a hash of both at its end.
std::string text_of(std::span<const std::int64_t> words, const EngineChoice& choice) {
  std::string text = fmt::format("graph {}\nengine {}\n", line_of(words), choice.engine);
  for (const auto& [knob, value] : choice.knobs) text += fmt::format("knob {} {}\n", knob, value);
  return text + fmt::format("xxh3 {:016x}\n", xxh3(text));
}

std::optional<EngineChoice> parse(const std::string& text, std::span<const std::int64_t> words) {
  std::istringstream lines(text);
  EngineChoice choice;
  std::string word;
  while (lines >> word && word != "xxh3") {
    if (word == "engine") lines >> choice.engine;
    if (word == "knob") {
      std::int64_t knob = 0, value = 0;
      lines >> knob >> value;
      choice.knobs[knob] = value;
    }
  }
  // What does not come out as it went in is damaged, or of another graph.
  if (text_of(words, choice) != text) return std::nullopt;
  return choice;
}

/// Makes `path` of the text at once and only where there is none. False where there is.
bool publish(const std::string& path, const std::string& text) {
  const std::string partial = fmt::format("{}.tmp-{}", path, ::getpid());
  write_file_atomically(partial, text);
  const int status = ::link(partial.c_str(), path.c_str());
  const int why = errno;
  ::unlink(partial.c_str());
  if (status != 0 && why != EEXIST) fail(Exit::io, "{}: {}", path, std::strerror(why));
  return status == 0;
}

}  // namespace

PlanCache::PlanCache(const std::string& folder, const std::string& device, std::int64_t version)
    : folder_(fmt::format("{}/{}-{}", folder, as_file_name(device), version)) {}

std::string PlanCache::path_of(std::span<const std::int64_t> words) const {
  return fmt::format("{}/{:016x}.plan", folder_, xxh3(line_of(words)));
}

std::optional<EngineChoice> PlanCache::read(const std::string& path,
                                            std::span<const std::int64_t> words) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text(most_bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  auto choice = parse(text, words);
  if (!choice) {
    log::warn("{}: damaged or of another graph, and chosen anew", path);
    std::remove(path.c_str());
  }
  return choice;
}

std::optional<EngineChoice> PlanCache::find(std::span<const std::int64_t> words) {
  const std::string path = path_of(words);
  if (const auto found = known_.find(path); found != known_.end()) return found->second;
  const auto choice = read(path, words);
  if (choice) known_.emplace(path, *choice);
  return choice;
}

EngineChoice PlanCache::add(std::span<const std::int64_t> words, const EngineChoice& choice) {
  const std::string path = path_of(words);
  EngineChoice holds = choice;
  try {
    make_directories(folder_);
    if (!publish(path, text_of(words, choice)))
      if (const auto theirs = read(path, words)) holds = *theirs;
  } catch (const Error& error) {
    if (!warned_) log::warn("choices of engines are not kept: {}", error.what());
    warned_ = true;
  }
  known_[path] = holds;
  return holds;
}

std::string default_plan_folder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  const std::string cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? variable("HOME") + "/.cache" : cache) + "/strata/cudnn";
}

}  // namespace strata::cuda
