#pragma once

#include <optional>
#include <vector>

#include "core/feed.hpp"
#include "core/replay.hpp"
#include "core/row_buckets.hpp"
#include "text/hidden_states.hpp"

namespace strata {

/// The encoder's pass over batch after batch, for a device: what tells one batch from another lies
/// in memory that stays where it is, and texts are padded to one of a few numbers of rows. So each
/// of these is called, recorded and then played (core/replay.hpp), and a backend's plans, which
/// are made by shape, stay few.
class PaddedPasses {
 public:
  static constexpr std::int64_t most_buckets = 8;
  /// Rows for each text that a bucket has room for: texts that are shorter on average do not fit.
  static constexpr std::int64_t rows_a_text = 8;

  /// Of options, what encode_ids reads; without all_layers. No text has more than `longest` tokens.
  /// recorded = false: every op is called. The model, which does not stream, and exec outlive this
  /// object.
  PaddedPasses(Exec& exec, const TextModel& model, bool causal, const EncodeOptions& options,
               std::int64_t longest, bool recorded = true);

  /// Whether there is room for the texts.
  bool hold(const TokenBatch& texts) const;
  /// Begins a pass that fills hidden, one a strategy (T, width) f32, and pooled (n, P) f32 or
  /// absent, on the host: they are there after finish(). The pass before is finished meanwhile.
  /// Error(65) as TextModel::forward.
  void run(const TokenBatch& texts, std::span<const Tensor> hidden, Tensor pooled);
  /// Returns when nothing is under way.
  void finish();

  std::size_t recordings() const { return replays_.recordings(); }

 private:
  /// A pass whose results are on their way into a slot.
  struct UnderWay {
    int slot;
    std::vector<Tensor> results;  // where they belong, as they lie in the slot
  };
  void send(const TokenBatch& texts, std::int64_t rows);
  UnderWay take(const TokenBatch& texts, std::span<const Tensor> hidden, Tensor pooled);
  /// Where ops find them, padded to so many rows.
  PaddedTokens at(std::int64_t rows) const;

  Exec& exec_;
  const TextModel& model_;
  const bool causal_;
  const RowBuckets buckets_;
  const std::int64_t longest_;
  Feed feed_;  // ids and positions (most rows) i64, offsets (most texts + 1) i64
  HiddenStates states_;
  Buffer last_;  // (most rows, width): what is pooled; absent: nothing is
  Readback results_;
  int slot_ = 0;
  std::optional<UnderWay> under_way_;
  Replays replays_;
};

}  // namespace strata
