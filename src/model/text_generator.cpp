#include "model/text_generator.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/stop_signals.hpp"
#include "model/config_reader.hpp"
#include "model/kv_cache.hpp"

namespace strata {

std::vector<std::int32_t> read_stop_ids(const std::string& dir) {
  constexpr const char* key = "eos_token_id";
  constexpr std::int64_t most = std::int64_t{1} << 24;
  for (const char* file : {"/generation_config.json", "/config.json"}) {
    if (!file_exists(dir + file)) continue;
    const ConfigReader config(dir + file);
    if (!config.has(key)) continue;
    const auto ids = config.is_list(key) ? config.integers(key, {}, 0, most)
                                         : config.integers(key, 1, 0, 0, most);
    return {ids.begin(), ids.end()};
  }
  return {};
}

TextGenerator TextGenerator::load(Exec& exec, const std::string& dir, DType compute) {
  TextModel model = TextModel::load(exec, dir, compute);
  ops::PackedWeight head = model.read_head(exec);
  return {std::move(model), std::move(head), read_stop_ids(dir)};
}

/// One call of generate.
class TextGenerator::Run {
 public:
  Run(const TextGenerator& of, Exec& exec, const GenerationOptions& options, const Next& next,
      const Done& done)
      : of_(of),
        model_(of.model_),
        exec_(exec),
        options_(options),
        next_(next),
        done_(done),
        cache_(model_.config(), model_.compute(), options.batch),
        logits_(DType::f32, {ops::packed_few_rows, of.head_.n}) {
    for (std::int64_t i = options.batch - 1; i >= 0; --i) free_.push_back(i);
  }

  void to_end() {
    for (bool more = true; more || !texts_.empty();) {
      check_stop();  // texts that are not at their end are made anew
      more = more && admit();
      if (!texts_.empty()) step();
    }
  }

 private:
  struct Text {
    std::uint64_t row;
    std::int64_t place;   // in the cache
    std::int64_t length;  // positions in the cache
    std::vector<std::int32_t> output;
  };

  /// Fills the free places; false when there are no more requests.
  bool admit() {
    std::vector<TextRequest> newcomers;
    std::int64_t tokens = 0;
    bool more = true;
    while (std::ssize(newcomers) < std::ssize(free_)) {
      std::optional<TextRequest> request = next_();
      more = request.has_value();
      if (!more) break;
      if (request->prompt.empty() || options_.max_new_tokens == 0) {
        done_(request->row, {});
        continue;
      }
      const std::int64_t own = std::ssize(request->prompt);
      if (own > longest_prompt)
        fail(Exit::data, "prompt {} (from 0) has {} tokens, at most {}", request->row, own,
             longest_prompt);
      if (!newcomers.empty() && tokens + own > prefill_tokens) {
        prefill(newcomers);
        newcomers.clear();
        tokens = 0;
      }
      newcomers.push_back(*std::move(request));
      tokens += own;
    }
    if (!newcomers.empty()) prefill(newcomers);
    return more;
  }

  /// The prompts' own positions, all in one pass, and the first new token of each.
  void prefill(const std::vector<TextRequest>& newcomers) {
    std::vector<std::int64_t> ids, positions, places, offsets{0}, last;
    const std::size_t first = texts_.size();
    for (const TextRequest& request : newcomers) {
      const std::int64_t length = std::ssize(request.prompt);
      const std::int64_t place = free_.back();
      free_.pop_back();
      texts_.push_back({request.row, place, length, {}});
      cache_.grow(exec_, place, length);
      ids.insert(ids.end(), request.prompt.begin(), request.prompt.end());
      places.insert(places.end(), request.prompt.size(), place);
      for (std::int64_t i = 0; i < length; ++i) positions.push_back(i);
      offsets.push_back(std::ssize(ids));
      last.push_back(std::ssize(ids) - 1);
    }
    const KvCache::Rows rows = cache_.locate(places, positions, false);
    const Tensor ranges = view_of(offsets.data(), {std::ssize(offsets)});
    const auto attend = [&](std::int64_t layer, Tensor o, Tensor q, Tensor k, Tensor v) {
      cache_.store(exec_, layer, k, v, rows);
      ops::attention(exec_, o, {}, q, k, v, ranges, ranges, model_.attention_params(layer, true));
    };
    forward(ids, positions, ops::packed_rows, attend, last, first);
  }

  /// One more position of every text, and the next new token of each.
  void step() {
    std::vector<std::int64_t> ids, positions, places, last(texts_.size());
    std::iota(last.begin(), last.end(), 0);
    for (Text& text : texts_) {
      ids.push_back(text.output.back());
      positions.push_back(text.length++);
      places.push_back(text.place);
      cache_.grow(exec_, text.place, text.length);
    }
    const KvCache::Rows rows = cache_.locate(places, positions, true);
    const auto attend = [&](std::int64_t layer, Tensor o, Tensor q, Tensor k, Tensor v) {
      cache_.store(exec_, layer, k, v, rows);
      cache_.attend(exec_, layer, o, q, rows, model_.attention_params(layer, true));
    };
    forward(ids, positions, ops::packed_few_rows, attend, last, 0);
  }

  /// A pass, then a token for text first + i from row last[i]. Texts that end leave.
  void forward(std::vector<std::int64_t>& ids, std::vector<std::int64_t>& positions,
               std::int64_t block, const TextModel::Attend& attend,
               const std::vector<std::int64_t>& last, std::size_t first) {
    const std::int64_t count = std::ssize(ids), layers = model_.config().layers;
    const TextModel::Rows rows{view_of(ids.data(), {count}), view_of(positions.data(), {count}),
                               attend};
    model_.run(exec_, std::span(&rows, 1), block,
               [&](std::size_t, std::int64_t state, Tensor hidden) {
                 if (state == layers) choose(hidden, last, first);
               });
    std::erase_if(texts_, [](const Text& text) { return text.place < 0; });
  }

  /// hidden (T, width) after the final norm.
  void choose(Tensor hidden, const std::vector<std::int64_t>& last, std::size_t first) {
    constexpr std::int64_t block = ops::packed_few_rows;
    for (std::int64_t begin = 0; begin < std::ssize(last); begin += block) {
      const std::int64_t count = std::min(block, std::ssize(last) - begin);
      read_logits(hidden, std::span(last).subspan(begin, count));
      for (std::int64_t i = 0; i < count; ++i)
        extend(texts_[first + static_cast<std::size_t>(begin + i)],
               {logits_.as<float>() + i * of_.head_.n, static_cast<std::size_t>(of_.head_.n)});
    }
  }

  void read_logits(Tensor hidden, std::span<const std::int64_t> rows) {
    const ArenaScope scope(exec_.arena);
    const std::int64_t width = model_.config().width, count = std::ssize(rows);
    const Tensor chosen = exec_.empty(model_.compute(), {ops::packed_few_rows, width});
    ops::fill(exec_, chosen, 0.0f);
    for (std::int64_t i = 0; i < count; ++i)
      memory::copy(chosen.rows(i, i + 1).data, exec_.device(),
                   hidden.rows(rows[i], rows[i] + 1).data, exec_.device(),
                   chosen.rows(i, i + 1).bytes());
    Tensor logits = exec_.empty(model_.compute(), {ops::packed_few_rows, of_.head_.n});
    ops::linear(exec_, logits, chosen, of_.head_, {}, ops::packed_few_rows);
    if (model_.compute() != DType::f32) {
      const Tensor wide = exec_.empty(DType::f32, logits.shape);
      ops::cast(exec_, wide, logits);
      logits = wide;
    }
    memory::copy(logits_.tensor().data, host_device, logits.data, exec_.device(),
                 logits.rows(0, count).bytes());
  }

  void extend(Text& text, std::span<const float> logits) {
    const auto at = static_cast<std::uint32_t>(text.output.size());
    const std::int32_t id =
        next_token(logits, model_.config().final_softcap, options_.sampling, text.row, at);
    const bool stops = is_in(of_.stop_, id) || is_in(options_.stop, id);
    if (!stops) text.output.push_back(id);
    if (!stops && std::ssize(text.output) < options_.max_new_tokens) return;
    done_(text.row, text.output);
    cache_.release(text.place);
    free_.push_back(std::exchange(text.place, -1));
  }

  static bool is_in(const std::vector<std::int32_t>& ids, std::int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  }

  /// Prompt tokens of one pass, so that its activations stay small; a longer prompt comes alone.
  static constexpr std::int64_t prefill_tokens = 2048;

  const TextGenerator& of_;
  const TextModel& model_;
  Exec& exec_;
  const GenerationOptions& options_;
  const Next& next_;
  const Done& done_;
  KvCache cache_;
  Buffer logits_;  // (packed_few_rows, vocabulary) f32 on the host
  std::vector<std::int64_t> free_;
  std::vector<Text> texts_;
};

void TextGenerator::generate(Exec& exec, const GenerationOptions& options, const Next& next,
                             const Done& done) const {
  STRATA_CHECK(options.batch > 0 && options.max_new_tokens >= 0);
  Run(*this, exec, options, next, done).to_end();
}

}  // namespace strata
