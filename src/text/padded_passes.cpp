#include "text/padded_passes.hpp"

#include <cstring>
#include <utility>

#include "core/error.hpp"
#include "kernels/ops.hpp"

namespace strata {

namespace {

std::int64_t texts_of(std::int64_t rows) {
  return rows / PaddedPasses::rows_a_text;
}

std::size_t feed_bytes(std::int64_t rows) {
  return static_cast<std::size_t>(2 * rows + texts_of(rows) + 1) * sizeof(std::int64_t);
}

/// Of all that a pass gives, f32.
std::size_t result_bytes(const TextModel& model, const EncodeOptions& options, std::int64_t rows) {
  const auto strategies = static_cast<std::int64_t>(options.strategies.size());
  const std::int64_t pooled = options.pooled ? texts_of(rows) * model.pooled_width() : 0;
  return static_cast<std::size_t>(strategies * rows * model.config().width + pooled) *
         sizeof(float);
}

EncodeOptions without_pooled(EncodeOptions options) {
  STRATA_CHECK(!options.all_layers, "every state of a padded pass");
  options.pooled = false;
  return options;
}

void check_ids(const TextModel& model, Tensor ids) {
  const auto* id = ids.as<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] < 0 || id[i] >= model.config().vocabulary)
      fail(Exit::data, "token id {} at position {} is outside the vocabulary of {}", id[i], i,
           model.config().vocabulary);
}

}  // namespace

PaddedPasses::PaddedPasses(Exec& exec, const TextModel& model, bool causal,
                           const EncodeOptions& options, std::int64_t longest, bool recorded)
    : exec_(exec),
      model_(model),
      causal_(causal),
      buckets_(options.batch_tokens, most_buckets, ops::packed_rows),
      longest_(std::min(longest, buckets_.most_rows())),
      feed_(exec, feed_bytes(buckets_.most_rows())),
      states_(model, buckets_.most_rows(), 0, without_pooled(options), exec.device()),
      results_(exec, result_bytes(model, options, buckets_.most_rows()), 2),
      replays_(exec, recorded) {
  STRATA_CHECK(!model.streaming(), "a recording of layers that come and go");
  if (options.pooled)
    last_ = Buffer(model.compute(), {buckets_.most_rows(), model.config().width}, exec.device());
}

bool PaddedPasses::hold(const TokenBatch& texts) const {
  const std::int64_t tokens = texts.ids.numel(), count = texts.offsets.numel() - 1;
  if (tokens > buckets_.most_rows() || count > texts_of(buckets_.rows_for(tokens))) return false;
  const auto* at = texts.offsets.as<std::int64_t>();
  for (std::int64_t b = 0; b < count; ++b)
    if (at[b + 1] - at[b] > longest_) return false;
  return true;
}

void PaddedPasses::send(const TokenBatch& texts, std::int64_t rows) {
  check_ids(model_, texts.ids);
  const Buffer positions = model_.positions_of(texts);
  const std::int64_t most = buckets_.most_rows(), tokens = texts.ids.numel();
  auto* ids = reinterpret_cast<std::int64_t*>(feed_.begin());
  const auto fill = [&](std::int64_t* to, Tensor from, std::int64_t end, std::int64_t rest) {
    std::memcpy(to, from.data, from.bytes());
    std::fill(to + from.numel(), to + end, rest);
  };
  fill(ids, texts.ids, rows, 0);
  fill(ids + most, positions, rows, 0);
  fill(ids + 2 * most, texts.offsets, texts_of(rows) + 1, tokens);
  feed_.send(feed_bytes(most));
}

PaddedTokens PaddedPasses::at(std::int64_t rows) const {
  const std::int64_t most = buckets_.most_rows();
  const auto part = [&](std::int64_t first, std::int64_t count) {
    return Tensor{feed_.memory() + first * static_cast<std::int64_t>(sizeof(std::int64_t)),
                  DType::i64, exec_.device(), Shape{count}};
  };
  return {part(0, rows), part(most, rows), part(2 * most, texts_of(rows) + 1), longest_};
}

void PaddedPasses::run(const TokenBatch& texts, std::span<const Tensor> hidden, Tensor pooled) {
  STRATA_CHECK(hidden.size() == states_.hidden.size() && bool(pooled) == bool(last_.tensor()));
  const std::int64_t tokens = texts.ids.numel(), rows = buckets_.rows_for(tokens);
  send(texts, rows);
  replays_.run(rows, [&] {
    const ArenaScope scope(exec_.arena);
    const PaddedTokens padded = at(rows);
    states_.begin_pass();
    states_.add_batch(exec_, 0, 0, {padded.ids, padded.offsets});
    model_.forward(exec_, padded, causal_, [&](std::int64_t k, Tensor state) {
      states_.take(exec_, 0, k, state);
      if (k == model_.config().layers && last_.tensor())
        exec_.copy(last_.tensor().data, state.data, state.bytes());
    });
  });
  UnderWay now = take(texts, hidden, pooled);
  finish();
  under_way_ = std::move(now);
}

PaddedPasses::UnderWay PaddedPasses::take(const TokenBatch& texts, std::span<const Tensor> hidden,
                                          Tensor pooled) {
  UnderWay now{.slot = slot_, .results = {hidden.begin(), hidden.end()}};
  slot_ = 1 - slot_;
  const std::int64_t tokens = texts.ids.numel();
  std::size_t at = 0;
  const auto to_slot = [&](Tensor from, Tensor to) {
    STRATA_CHECK(from.bytes() == to.bytes() && to.device == host_device);
    results_.take(now.slot, at, from);
    at += from.bytes();
  };
  for (std::size_t s = 0; s < hidden.size(); ++s)
    to_slot(states_.hidden[s].tensor().rows(0, tokens), hidden[s]);
  if (pooled) {
    const ArenaScope scope(exec_.arena);
    to_slot(model_.pool(exec_, texts.ids, texts.offsets, last_.tensor().rows(0, tokens)), pooled);
    now.results.push_back(pooled);
  }
  results_.close(now.slot);
  return now;
}

void PaddedPasses::finish() {
  if (!under_way_) return;
  const UnderWay done = *std::exchange(under_way_, std::nullopt);
  poll_until([&] { return results_.moment(done.slot).is_reached(); });
  const std::byte* from = results_.at(done.slot);
  for (const Tensor& to : done.results) {
    std::memcpy(to.data, from, to.bytes());
    from += to.bytes();
  }
}

}  // namespace strata
