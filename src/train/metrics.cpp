#include "train/metrics.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/file.hpp"

namespace strata {

namespace {

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

/// The length up to and with the last line feed.
off_t whole_lines(int fd, off_t size, const std::string& path) {
  std::vector<char> block(4096);
  while (size > 0) {
    const off_t begin = std::max<off_t>(0, size - static_cast<off_t>(block.size()));
    const std::int64_t n = read_fully_at(fd, block.data(), static_cast<std::size_t>(size - begin),
                                         static_cast<std::uint64_t>(begin));
    if (n < 0) fail_errno(path, "pread");
    for (std::int64_t i = n; i > 0; --i)
      if (block[i - 1] == '\n') return begin + i;
    size = begin;
  }
  return 0;
}

}  // namespace

std::string StepRecord::to_json() const {
  nlohmann::ordered_json j;
  j["step"] = step;
  j["samples"] = samples;
  j["epoch"] = epoch;
  j["loss"] = number(loss);
  j["lr"] = number(lr);
  j["grad_norm"] = number(grad_norm);
  j["images_per_s"] = number(images_per_s);
  j["images_per_s_per_rank"] = number(images_per_s_per_rank);
  j["mfu"] = number(mfu);
  j["step_s"] = number(step_s);
  j["data_s"] = number(data_s);
  j["comm_s"] = number(comm_s);
  j["mem_gb"] = number(mem_gb);
  return j.dump();
}

std::string ValidationRecord::to_json() const {
  nlohmann::ordered_json j;
  j["step"] = step;
  j["samples"] = samples;
  j["count"] = count;
  j["loss"] = number(loss);
  j["loss_by_timestep_quartile"] = nlohmann::ordered_json::array();
  for (const double q : quartiles) j["loss_by_timestep_quartile"].push_back(number(q));
  return j.dump();
}

LineLog::LineLog(const std::string& path) : file_(path, O_RDWR) {
  struct stat status {};
  if (fstat(file_.fd(), &status) != 0) fail_errno(path, "fstat");
  const off_t whole = whole_lines(file_.fd(), status.st_size, path);
  if (whole != status.st_size && ftruncate(file_.fd(), whole) != 0) fail_errno(path, "ftruncate");
}

void LineLog::append(const std::string& line) {
  file_.append(line + "\n");
}

MetricsLog::MetricsLog(const RunFolder& run)
    : steps_(run.metrics()), run_(run), board_(run.tensorboard()) {}

void MetricsLog::record(const StepRecord& r) {
  steps_.append(r.to_json());
  const std::vector<std::pair<std::string, double>> values{
      {"loss/train", r.loss},
      {"optimizer/lr", r.lr},
      {"optimizer/grad_norm", r.grad_norm},
      {"throughput/images_per_s", r.images_per_s},
      {"throughput/images_per_s_per_rank", r.images_per_s_per_rank},
      {"throughput/mfu", r.mfu},
      {"time/step_s", r.step_s},
      {"time/data_s", r.data_s},
      {"time/comm_s", r.comm_s},
      {"memory/gb", r.mem_gb},
  };
  board_.scalars(r.step, values);
}

void MetricsLog::record(const ValidationRecord& r) {
  if (!validation_) validation_ = std::make_unique<LineLog>(run_.validation());
  validation_->append(r.to_json());
  const std::vector<std::pair<std::string, double>> values{
      {"loss/validation", r.loss},
      {"loss/validation_quartile_1", r.quartiles[0]},
      {"loss/validation_quartile_2", r.quartiles[1]},
      {"loss/validation_quartile_3", r.quartiles[2]},
      {"loss/validation_quartile_4", r.quartiles[3]},
  };
  board_.scalars(r.step, values);
}

bool MetricsLog::has_validation(std::int64_t step) const {
  if (!file_exists(run_.validation())) return false;
  const std::string text = read_file(run_.validation());
  const auto end = text.find_last_of('\n');
  if (end == std::string::npos || end == 0) return false;
  const auto before = text.find_last_of('\n', end - 1);
  const auto begin = before == std::string::npos ? 0 : before + 1;
  const auto last = nlohmann::json::parse(text.substr(begin, end - begin), nullptr, false);
  return last.is_object() && last.value("step", nlohmann::json()) == step;
}

void MetricsLog::record_images(std::int64_t step, const std::string& dir) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    if (entry.path().extension() == ".png") files.push_back(entry.path());
  std::ranges::sort(files);
  for (const auto& file : files)
    board_.image(step, "samples/" + file.stem().string(), read_file(file.string(), 64 << 20));
}

}  // namespace strata
