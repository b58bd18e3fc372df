#include "train/restarts.hpp"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"

namespace strata {

namespace {

struct Count {
  std::int64_t step = -1, restarts = 0;
};

/// A file that is missing or malformed counts nothing: it is no reason not to run.
Count read_count(const std::string& path) {
  try {
    const auto json = parse_json(read_file(path, 4096), path, 2);
    return {json.at("step").get<std::int64_t>(), json.at("restarts").get<std::int64_t>()};
  } catch (const std::exception&) {
    return {};
  }
}

}  // namespace

void Restarts::begin(std::int64_t step, std::int64_t most) const {
  const Count before = read_count(path_);
  const std::int64_t restarts = before.step == step ? before.restarts + 1 : 0;
  if (most > 0 && restarts > most)
    fail(Exit::no_progress,
         "{}: {} restarts from step {} made no checkpoint; when the cause (log/) is mended, delete "
         "this file",
         path_, most, step);
  write_file_atomically(path_,
                        nlohmann::json{{"step", step}, {"restarts", restarts}}.dump() + "\n");
}

void Restarts::forget() const {
  ::unlink(path_.c_str());
}

}  // namespace strata
