#include "train/step_profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/error.hpp"

namespace strata {

namespace {

/// Kinds of ops, in the order in which they are printed. The first rule whose word begins the name
/// of the op holds.
struct Rule {
  const char *op, *kind;
};
constexpr Rule rules[] = {
    {"conv2d_backward dw", "conv weight gradient"},
    {"conv2d_backward", "conv input gradient"},
    {"conv2d", "conv forward"},
    {"linear_backward dw", "linear weight gradient"},
    {"linear_backward", "linear input gradient"},
    {"linear", "linear forward"},
    {"attention_backward", "attention backward"},
    {"attention", "attention forward"},
    {"group_norm", "group norm"},
    {"layer_norm", "layer norm"},
    {"geglu", "geglu"},
    {"reorder", "weight reorder"},
    {"adamw", "optimizer"},
    {"gradient_stats", "optimizer"},
    {"decide_update", "optimizer"},
    {"accumulate", "gradient sums"},
    {"normals", "noise and loss"},
    {"draw_posterior", "noise and loss"},
    {"add_noise", "noise and loss"},
    {"mse_loss", "noise and loss"},
};
constexpr const char* printed[] = {"conv forward",
                                   "conv input gradient",
                                   "conv weight gradient",
                                   "linear forward",
                                   "linear input gradient",
                                   "linear weight gradient",
                                   "attention forward",
                                   "attention backward",
                                   "group norm",
                                   "layer norm",
                                   "geglu",
                                   "pointwise",
                                   "weight reorder",
                                   "gradient sums",
                                   "optimizer",
                                   "noise and loss",
                                   "waits and communication",
                                   "other"};

std::string kind_of(const spans::Event& event) {
  const std::string_view kind = event.kind, name = event.name;
  if (kind == "wait" || kind == "communication") return "waits and communication";
  if (kind != "op") return "other";
  for (const Rule& rule : rules)
    if (name.starts_with(rule.op)) return rule.kind;
  return "pointwise";
}

/// The place of a span among those that contain it.
struct Place {
  const spans::Event* event;
  double inside = 0;  // nanoseconds of the spans right inside
  std::string_view pass, block, part;
};

class Summary {
 public:
  Summary(std::int64_t steps, const MachinePeaks& peaks)
      : scale_(1.0 / static_cast<double>(steps)), peaks_(peaks) {}

  /// One thread's spans.
  void add(const spans::Lane& lane) {
    std::vector<Place> open;
    for (std::size_t i = lane.events.size(); i-- > 0;) {  // what contains comes first
      const spans::Event& event = lane.events[i];
      while (!open.empty() && open.back().event->begin >= event.end) close(open);
      Place place = open.empty() ? Place{} : open.back();
      if (!open.empty()) open.back().inside += static_cast<double>(event.end - event.begin);
      place.event = &event;
      place.inside = 0;
      const std::string_view kind = event.kind;
      if (kind == "pass") place.pass = event.name;
      if (kind == "block") place.block = event.name;
      if (kind == "part") place.part = event.name;
      open.push_back(place);
    }
    while (!open.empty()) close(open);
  }

  std::map<std::string, ProfileRow> kinds, blocks;

 private:
  void close(std::vector<Place>& open) {
    const Place place = open.back();
    open.pop_back();
    const spans::Event& event = *place.event;
    const double own = static_cast<double>(event.end - event.begin) - place.inside;
    ProfileRow row;
    row.seconds[place.pass == "forward"    ? 0
                : place.pass == "backward" ? 1
                                           : 2] = 1e-9 * own * scale_;
    row.flops = event.flops * scale_;
    row.bytes = event.bytes * scale_;
    const double arithmetic = row.flops / peaks_.flops, memory = row.bytes / peaks_.bytes;
    row.least_seconds = std::max(arithmetic, memory);
    row.least_for_memory = memory > arithmetic ? memory : 0;
    row.calls = std::string_view(event.kind) == "op" ? scale_ : 0;
    kinds[kind_of(event)] += row;
    blocks[name_of(place)] += row;
  }
  static std::string name_of(const Place& place) {
    if (place.block.empty())
      return place.pass.empty() ? "around the passes" : std::string(place.pass);
    std::string name(place.block);
    if (!place.part.empty()) name += " " + std::string(place.part);
    return name;
  }

  double scale_;
  MachinePeaks peaks_;
};

/// Forward's order for the blocks, what is outside of them behind.
int rank_of(const std::string& block) {
  int rank = 0;
  for (const char* begin : {"embeddings", "conv_in", "down_blocks", "mid_block", "up_blocks",
                            "conv_out", "forward", "backward", "update"}) {
    if (block.starts_with(begin)) return rank;
    ++rank;
  }
  return rank;
}

std::vector<ProfileRow> rows_of(const std::map<std::string, ProfileRow>& named) {
  std::vector<ProfileRow> rows;
  for (const auto& [name, row] : named) {
    rows.push_back(row);
    rows.back().name = name;
  }
  return rows;
}

void add_by_name(std::vector<ProfileRow>& to, const std::vector<ProfileRow>& from) {
  for (const ProfileRow& row : from) {
    auto found =
        std::find_if(to.begin(), to.end(), [&](const auto& r) { return r.name == row.name; });
    if (found == to.end()) found = to.insert(to.end(), ProfileRow{.name = row.name});
    *found += row;
  }
}

void divide(std::vector<ProfileRow>& rows, double by) {
  for (ProfileRow& row : rows) {
    for (double* value : {&row.seconds[0], &row.seconds[1], &row.seconds[2], &row.flops, &row.bytes,
                          &row.least_seconds, &row.least_for_memory, &row.calls})
      *value /= by;
  }
}

}  // namespace

ProfileRow& ProfileRow::operator+=(const ProfileRow& other) {
  for (std::size_t i = 0; i < seconds.size(); ++i) seconds[i] += other.seconds[i];
  flops += other.flops;
  bytes += other.bytes;
  least_seconds += other.least_seconds;
  least_for_memory += other.least_for_memory;
  calls += other.calls;
  return *this;
}

double StepProfile::flops() const {
  double sum = 0;
  for (const ProfileRow& row : kinds) sum += row.flops;
  return sum;
}

StepProfile profile_of(const std::vector<spans::Lane>& lanes, std::int64_t steps,
                       const MachinePeaks& peaks) {
  StepProfile profile;
  profile.steps = steps;
  profile.peaks = peaks;
  for (const spans::Lane& lane : lanes) {
    if (lane.left_out > 0)
      fail(Exit::usage, "{} spans of a thread were left out: profile fewer steps", lane.left_out);
    Summary summary(steps, peaks);
    summary.add(lane);
    if (lane.thread != "main") {
      ProfileRow whole{.name = lane.thread};
      for (const auto& [kind, row] : summary.kinds) whole += row;
      profile.behind.push_back(whole);
      continue;
    }
    for (const char* kind : printed)
      if (summary.kinds.contains(kind)) {
        profile.kinds.push_back(summary.kinds[kind]);
        profile.kinds.back().name = kind;
      }
    profile.blocks = rows_of(summary.blocks);
    std::stable_sort(
        profile.blocks.begin(), profile.blocks.end(),
        [](const auto& a, const auto& b) { return rank_of(a.name) < rank_of(b.name); });
  }
  for (const ProfileRow& row : profile.kinds) profile.seconds += row.total();
  return profile;
}

StepProfile mean_of(const std::vector<StepProfile>& profiles) {
  StepProfile mean = profiles.front();
  const auto count = static_cast<double>(profiles.size());
  for (std::size_t i = 1; i < profiles.size(); ++i) {
    const StepProfile& other = profiles[i];
    add_by_name(mean.kinds, other.kinds);
    add_by_name(mean.blocks, other.blocks);
    add_by_name(mean.behind, other.behind);
    mean.seconds += other.seconds;
    mean.seconds_unwatched += other.seconds_unwatched;
    mean.peaks.flops += other.peaks.flops;
    mean.peaks.bytes += other.peaks.bytes;
    for (std::size_t m = 0; m < mean.memory.size() && m < other.memory.size(); ++m)
      mean.memory[m].bytes = std::max(mean.memory[m].bytes, other.memory[m].bytes);
  }
  divide(mean.kinds, count);
  divide(mean.blocks, count);
  divide(mean.behind, count);
  for (double* value :
       {&mean.seconds, &mean.seconds_unwatched, &mean.peaks.flops, &mean.peaks.bytes})
    *value /= count;
  return mean;
}

// --- text and JSON ------------------------------------------------------------------------------

namespace {

std::string table_of(const char* title, const std::vector<ProfileRow>& rows, double seconds,
                     bool passes) {
  std::string text = fmt::format("\n{:<28}{}{:>9}{:>7}{:>9}{:>8}{:>8}{:>9}{:>8}\n", title,
                                 passes ? fmt::format("{:>9}{:>9}", "forward", "backward") : "",
                                 "ms", "%", "GFLOP", "GB", "TFLOP/s", "GB/s", "of peak");
  for (const ProfileRow& row : rows) {
    const double total = row.total();
    text += fmt::format("  {:<26}", row.name);
    if (passes) text += fmt::format("{:>9.2f}{:>9.2f}", 1e3 * row.seconds[0], 1e3 * row.seconds[1]);
    text += fmt::format("{:>9.2f}{:>7.1f}", 1e3 * total, 100 * total / seconds);
    if (row.flops + row.bytes > 0) {
      text += fmt::format("{:>9.2f}{:>8.3f}{:>8.3f}{:>9.2f}{:>7.0f} % ", 1e-9 * row.flops,
                          1e-9 * row.bytes, 1e-12 * row.flops / total, 1e-9 * row.bytes / total,
                          100 * row.share_of_peak());
      text += row.is_bound_by_memory() ? "of memory" : "of arithmetic";
    }
    text += "\n";
  }
  return text;
}

nlohmann::json rows_to_json(const std::vector<ProfileRow>& rows) {
  nlohmann::json all = nlohmann::json::array();
  for (const ProfileRow& row : rows)
    all.push_back({{"name", row.name},
                   {"forward_s", row.seconds[0]},
                   {"backward_s", row.seconds[1]},
                   {"elsewhere_s", row.seconds[2]},
                   {"seconds", row.total()},
                   {"flops", row.flops},
                   {"bytes", row.bytes},
                   {"least_s", row.least_seconds},
                   {"least_memory_s", row.least_for_memory},
                   {"share_of_peak", row.share_of_peak()},
                   {"bound_by", row.is_bound_by_memory() ? "memory" : "arithmetic"},
                   {"calls", row.calls}});
  return all;
}

std::vector<ProfileRow> rows_from_json(const nlohmann::json& all) {
  std::vector<ProfileRow> rows;
  for (const auto& row : all)
    rows.push_back({.name = row.at("name"),
                    .seconds = {row.at("forward_s"), row.at("backward_s"), row.at("elsewhere_s")},
                    .flops = row.at("flops"),
                    .bytes = row.at("bytes"),
                    .least_seconds = row.at("least_s"),
                    .least_for_memory = row.at("least_memory_s"),
                    .calls = row.at("calls")});
  return rows;
}

}  // namespace

std::string to_text(const StepProfile& p) {
  std::string text = fmt::format(
      "{}\n{} rank{} x {} threads on {}, {}, {} images a step, mean of {} steps\n"
      "peaks of a rank, measured now: {:.3f} TFLOP/s, {:.1f} GB/s copied\n"
      "a step: {:.4f} s ({:.4f} s without spans), {:.2f} images/s, {:.1f} GFLOP a rank = {:.1f} % "
      "of "
      "the peak\n",
      p.what, p.ranks, p.ranks > 1 ? "s" : "", p.threads, p.device, p.dtype, p.images, p.steps,
      1e-12 * p.peaks.flops, 1e-9 * p.peaks.bytes, p.seconds, p.seconds_unwatched,
      static_cast<double>(p.images) / p.seconds, 1e-9 * p.flops(),
      100 * p.flops() / p.seconds / p.peaks.flops);
  text += table_of("by kind", p.kinds, p.seconds, false);
  text += table_of("by block", p.blocks, p.seconds, true);
  if (!p.behind.empty()) text += table_of("at the same time, threads", p.behind, p.seconds, false);
  text += "\nmemory of a rank, at most\n";
  for (const MemoryPart& part : p.memory)
    text += fmt::format("  {:<44}{:>10.1f} MB\n", part.name, 1e-6 * part.bytes);
  return text;
}

nlohmann::json to_json(const StepProfile& p) {
  nlohmann::json memory = nlohmann::json::array();
  for (const MemoryPart& part : p.memory)
    memory.push_back({{"name", part.name}, {"bytes", part.bytes}});
  return {{"what", p.what},
          {"ranks", p.ranks},
          {"threads", p.threads},
          {"device", p.device},
          {"dtype", p.dtype},
          {"steps", p.steps},
          {"images", p.images},
          {"seconds", p.seconds},
          {"seconds_unwatched", p.seconds_unwatched},
          {"images_per_s", static_cast<double>(p.images) / p.seconds},
          {"flops", p.flops()},
          {"share_of_peak", p.flops() / p.seconds / p.peaks.flops},
          {"peak_flops", p.peaks.flops},
          {"peak_bytes", p.peaks.bytes},
          {"kinds", rows_to_json(p.kinds)},
          {"blocks", rows_to_json(p.blocks)},
          {"threads_behind", rows_to_json(p.behind)},
          {"memory", memory}};
}

StepProfile profile_from_json(const nlohmann::json& json) {
  StepProfile p;
  p.what = json.at("what");
  p.ranks = json.at("ranks");
  p.threads = json.at("threads");
  p.device = json.at("device");
  p.dtype = json.at("dtype");
  p.steps = json.at("steps");
  p.images = json.at("images");
  p.seconds = json.at("seconds");
  p.seconds_unwatched = json.at("seconds_unwatched");
  p.peaks = {json.at("peak_flops"), json.at("peak_bytes")};
  p.kinds = rows_from_json(json.at("kinds"));
  p.blocks = rows_from_json(json.at("blocks"));
  p.behind = rows_from_json(json.at("threads_behind"));
  for (const auto& part : json.at("memory"))
    p.memory.push_back({part.at("name"), part.at("bytes")});
  return p;
}

}  // namespace strata
