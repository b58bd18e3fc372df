#include "core/spans.hpp"

#include <fmt/format.h>

#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

namespace strata::spans {

namespace {

std::mutex mutex;  // of all that follows but what is a thread's own
std::vector<Lane> lanes;
std::int64_t started = 0;

struct Own {
  const char* name = "main";
  std::int64_t started = -1;  // the recording in which `lane` is the thread's
  std::size_t lane = 0;
};
thread_local Own own;

}  // namespace

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void name_thread(const char* name) {
  own.name = name;
}

void start() {
  const std::lock_guard lock(mutex);
  lanes.clear();
  started = now();
  detail::kept = true;
}

std::vector<Lane> stop() {
  const std::lock_guard lock(mutex);
  detail::kept = false;
  return std::exchange(lanes, {});
}

void Span::begin(std::string_view name, const char* kind, std::int64_t index) {
  event_.name = index < 0 ? std::string(name) : fmt::format("{} {}", name, index);
  event_.kind = kind;
  event_.begin = now();
}

void detail::keep(Event&& event) {
  event.end = now();
  const std::lock_guard lock(mutex);
  if (!are_kept() || event.begin < started) return;
  if (own.started != started) {
    own = {own.name, started, lanes.size()};
    lanes.push_back({own.name, {}, 0});
  }
  Lane& lane = lanes[own.lane];
  if (lane.events.size() == most_events)
    ++lane.left_out;
  else
    lane.events.push_back(std::move(event));
}

// --- traces -------------------------------------------------------------------------------------

std::string trace_events(const ProcessLanes& process) {
  using nlohmann::json;
  std::string text;
  const auto add = [&](const json& event) {
    if (!text.empty()) text += ",\n";
    // A name may be anything.
    text += event.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  const auto metadata = [&](const char* what, int thread, const json& arguments) {
    add({{"name", what},
         {"ph", "M"},
         {"pid", process.process},
         {"tid", thread},
         {"args", arguments}});
  };
  metadata("process_name", 0, {{"name", process.name}});
  metadata("process_sort_index", 0, {{"sort_index", process.process}});
  for (std::size_t i = 0; i < process.lanes.size(); ++i) {
    const Lane& lane = process.lanes[i];
    const int thread = static_cast<int>(i);
    metadata("thread_name", thread, {{"name", lane.thread}});
    metadata("thread_sort_index", thread, {{"sort_index", thread}});
    for (const Event& event : lane.events)
      add({{"name", event.name},
           {"cat", event.kind},
           {"ph", "X"},
           {"ts", static_cast<double>(event.begin - process.zero) * 1e-3},  // microseconds
           {"dur", static_cast<double>(event.end - event.begin) * 1e-3},
           {"pid", process.process},
           {"tid", thread}});
    if (lane.left_out > 0)
      add({{"name", fmt::format("{} spans left out", lane.left_out)},
           {"ph", "i"},
           {"s", "t"},
           {"ts", static_cast<double>(lane.events.back().end - process.zero) * 1e-3},
           {"pid", process.process},
           {"tid", thread}});
  }
  return text;
}

std::string trace_of(const std::vector<std::string>& events) {
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n",
                     fmt::join(events, ",\n"));
}

}  // namespace strata::spans
