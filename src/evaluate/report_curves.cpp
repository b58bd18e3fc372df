// Loss curves of a run folder.

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "evaluate/lines.hpp"
#include "evaluate/report.hpp"

namespace strata {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_file_bytes = std::uint64_t{2} << 30;
constexpr std::size_t max_line_bytes = std::size_t{1} << 20;

// NaN where the number is missing or null.
double number(const json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>() : std::nan("");
}

// By step; a torn last line of a running job is left out.
std::map<std::int64_t, json> records_by_step(const std::string& path) {
  std::map<std::int64_t, json> records;
  const std::string content = read_file(path, max_file_bytes);
  const std::size_t whole = content.rfind('\n') + 1;
  for_each_line(std::string_view(content).substr(0, whole), path, max_line_bytes,
                [&](std::int64_t line, std::string_view text) {
                  const std::string where = fmt::format("{}:{}", path, line);
                  json record = parse_json(text, where, 16);
                  const auto step = record.is_object() ? record.find("step") : record.end();
                  if (!record.is_object() || step == record.end() || !step->is_number_integer())
                    fail(Exit::data, "{}: no record of a step", where);
                  const auto at = step->get<std::int64_t>();
                  records[at] = std::move(record);
                });
  return records;
}

std::vector<CurvePoint> curve(const std::map<std::int64_t, json>& records, const char* key) {
  std::vector<CurvePoint> points;
  for (const auto& [step, record] : records)
    if (const double value = number(record, key); std::isfinite(value))
      points.push_back({static_cast<double>(step), value});
  return points;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

}  // namespace

std::optional<RunCurves> read_curves(const std::string& run) {
  if (!file_exists(run + "/metrics.jsonl")) return std::nullopt;
  const auto steps = records_by_step(run + "/metrics.jsonl");
  RunCurves curves;
  curves.loss = curve(steps, "loss");
  std::vector<double> rates, durations;
  for (const auto& [step, record] : steps) {
    curves.steps = step;
    if (const double samples = number(record, "samples"); std::isfinite(samples))
      curves.samples = static_cast<std::int64_t>(samples);
    if (const double rate = number(record, "images_per_s"); std::isfinite(rate))
      rates.push_back(rate);
    if (const double duration = number(record, "step_s"); std::isfinite(duration))
      durations.push_back(duration);
  }
  curves.images_per_s = median(rates);
  curves.hours = median(durations) * static_cast<double>(curves.steps) / 3600;
  if (file_exists(run + "/validation.jsonl")) {
    const auto validations = records_by_step(run + "/validation.jsonl");
    curves.validation = curve(validations, "loss");
    if (!validations.empty()) {
      const json& last = validations.rbegin()->second;
      const auto quartiles = last.find("loss_by_timestep_quartile");
      if (quartiles != last.end() && quartiles->is_array() && quartiles->size() == 4) {
        curves.quartiles.emplace();
        for (std::size_t i = 0; i < 4; ++i)
          (*curves.quartiles)[i] =
              (*quartiles)[i].is_number() ? (*quartiles)[i].get<double>() : std::nan("");
      }
    }
  }
  if (file_exists(run + "/config.toml"))
    curves.config = read_file(run + "/config.toml", std::uint64_t{1} << 20);
  return curves;
}

}  // namespace strata
