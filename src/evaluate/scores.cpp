#include "evaluate/scores.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "core/rng.hpp"
#include "evaluate/lines.hpp"
#include "evaluate/png.hpp"
#include "evaluate/world.hpp"

namespace strata {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_file_bytes = std::uint64_t{1} << 30;
constexpr std::uint64_t max_image_bytes = std::uint64_t{256} << 20;
constexpr std::size_t max_line_bytes = std::size_t{1} << 20;

template <class T>
T field(const json& record, const char* key, const std::string& where) {
  const auto found = record.find(key);
  if (found == record.end()) fail(Exit::data, "{}: field \"{}\" is missing", where, key);
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    fail(Exit::data, "{}: \"{}\": unexpected value {}", where, key, printable(found->dump()));
  }
}

std::vector<ScoreRecord> parse_scores(const std::string& content, const std::string& path) {
  std::vector<ScoreRecord> records;
  for_each_line(content, path, max_line_bytes, [&](std::int64_t number, std::string_view line) {
    const std::string where = fmt::format("{}:{}", path, number);
    const json object = parse_json(line, where, 16);
    if (!object.is_object()) fail(Exit::data, "{}: not a JSON object", where);
    ScoreRecord record;
    record.id = field<std::string>(object, "id", where);
    record.score = field<double>(object, "score", where);
    if (!(record.score >= 0 && record.score <= 1))
      fail(Exit::data, "{}: score {} is not in 0..1", where, record.score);
    record.skills = field<std::vector<std::string>>(object, "skills", where);
    record.image = field<std::string>(object, "image", where);
    record.prompt = field<std::string>(object, "prompt", where);
    record.all_facts_hold = field<bool>(object, "all_facts_hold", where);
    record.mismatched = field<bool>(object, "mismatched", where);
    records.push_back(std::move(record));
  });
  return records;
}

world::Image read_canvas(const std::string& path) {
  const DecodedPng png = decode_png(read_file(path, max_image_bytes), path);
  if (png.image.width != world::canvas || png.image.height != world::canvas)
    fail(Exit::data, "{}: {}x{} pixels, the world's pictures have {}x{}", path, png.image.width,
         png.image.height, world::canvas, world::canvas);
  world::Image canvas;
  std::copy(png.image.rgb.begin(), png.image.rgb.end(), canvas.rgb.begin());
  return canvas;
}

int count_images(const Prompt& prompt, const ScoreOptions& options) {
  const auto exists = [&](int k) {
    return file_exists(options.images + "/" + image_file_name(prompt.id, k));
  };
  int count = options.images_per_prompt;
  if (count == 0)
    for (count = 1; exists(count);) ++count;
  for (int k = 0; k < count; ++k)
    if (!exists(k))
      fail(Exit::data, "{}/{}: image of prompt \"{}\" is missing", options.images,
           image_file_name(prompt.id, k), printable(prompt.id));
  return count;
}

}  // namespace

std::string to_json_line(const ScoreRecord& record, const std::string& scorer) {
  const nlohmann::ordered_json line{{"id", record.id},
                                    {"image", record.image},
                                    {"prompt", record.prompt},
                                    {"skills", record.skills},
                                    {"score", record.score},
                                    {"all_facts_hold", record.all_facts_hold},
                                    {"mismatched", record.mismatched},
                                    {"scorer", scorer}};
  return line.dump();
}

std::vector<ScoreRecord> read_scores(const std::string& path) {
  auto records = parse_scores(read_file(path, max_file_bytes), path);
  if (records.empty()) fail(Exit::data, "{}: holds no score", path);
  return records;
}

std::vector<std::size_t> mismatched_prompts(const PromptSet& set, std::uint64_t seed) {
  const std::size_t n = set.prompts.size();
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = n; i > 1; --i) {  // Fisher and Yates
    const auto bits = random_block({seed}, {i, 0, Purpose::bootstrap}, 1);
    std::swap(order[i - 1], order[uniform_below(bits[0], static_cast<std::uint32_t>(i))]);
  }
  std::vector<std::size_t> other(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t step = 1;
    while (step < n && set.prompts[order[(i + step) % n]].text == set.prompts[order[i]].text)
      ++step;
    if (step == n) fail(Exit::data, "--mismatched: all prompts have the same text");
    other[order[i]] = order[(i + step) % n];
  }
  return other;
}

std::vector<ScoreRecord> score_world(Communicator& communicator, const PromptSet& set,
                                     const ScoreOptions& options) {
  std::vector<std::size_t> picture_of(set.prompts.size());
  std::iota(picture_of.begin(), picture_of.end(), 0);
  if (options.mismatched) picture_of = mismatched_prompts(set, options.seed);

  std::string mine;
  const auto ranks = static_cast<std::size_t>(communicator.size());
  for (auto i = static_cast<std::size_t>(communicator.rank()); i < set.prompts.size(); i += ranks) {
    const Prompt& judged = set.prompts[i];
    const Prompt& pictured = set.prompts[picture_of[i]];
    for (int k = 0, count = count_images(pictured, options); k < count; ++k) {
      ScoreRecord record{.id = judged.id,
                         .image = image_file_name(pictured.id, k),
                         .prompt = judged.text,
                         .skills = judged.skills,
                         .mismatched = options.mismatched};
      const auto picture = read_canvas(options.images + "/" + record.image);
      try {
        const world::Score score = world::score(picture, judged.text);
        record.score = score.fraction;
        record.all_facts_hold = score.all_hold;
      } catch (const std::invalid_argument& error) {
        fail(Exit::data, "prompt \"{}\": not a caption of the small world: {}",
             printable(judged.id), error.what());
      }
      mine += to_json_line(record, "world") + "\n";
    }
  }

  std::string all;
  for (const std::string& part : communicator.all_gather_strings(mine)) all += part;
  auto records = parse_scores(all, "scores");
  std::map<std::string_view, std::int64_t> row_of;
  for (const Prompt& prompt : set.prompts) row_of[prompt.id] = prompt.row;
  std::stable_sort(records.begin(), records.end(),
                   [&](const auto& a, const auto& b) { return row_of.at(a.id) < row_of.at(b.id); });
  return records;
}

}  // namespace strata
