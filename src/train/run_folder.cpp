#include "train/run_folder.hpp"

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.hpp"

namespace strata {

std::string RunFolder::dump(std::int64_t step, int rank) const {
  return fmt::format("{}/dump/step-{}.rank-{}.safetensors", dir, step, rank);
}

std::string RunFolder::samples(std::int64_t step) const {
  return fmt::format("{}/samples/step-{:08}", dir, step);
}

std::string RunFolder::log(int rank) const {
  return fmt::format("{}/rank-{:05}.log", logs(), rank);
}

void RunFolder::clear() const {
  for (const auto& path :
       {checkpoints(), metrics(), validation(), tensorboard(), logs(), dir + "/dump",
        dir + "/samples", exit_note(), restarts(), provenance(), config()}) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) fail(Exit::io, "{}: cannot be removed: {}", path, error.message());
  }
}

bool wants_restart(Exit code) {
  return code == Exit::io || code == Exit::requeue || code == Exit::hang;
}

void write_exit_note(const RunFolder& run, Exit code, int rank, const std::string& cause) noexcept {
  try {
    make_directories(run.dir);
    nlohmann::ordered_json note;
    note["code"] = static_cast<int>(code);
    note["rank"] = rank;
    note["cause"] = cause;
    note["restart"] = wants_restart(code);
    const auto replace = nlohmann::ordered_json::error_handler_t::replace;
    write_file_atomically(run.exit_note(), note.dump(2, ' ', false, replace) + "\n");
  } catch (...) {  // the cause itself is about to be reported; nothing better can be done here
  }
}

}  // namespace strata
