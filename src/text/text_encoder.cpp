#include "text/text_encoder.hpp"

#include <algorithm>

#include "kernels/ops.hpp"
#include "model/weights.hpp"
#include "text/hidden_states.hpp"

namespace strata {

namespace {

/// Tokens of one forward pass: enough to keep the matrix products busy, few enough to stay small.
constexpr std::int64_t batch_tokens = 2048;

}  // namespace

std::int64_t end_of_batch(std::span<const std::int64_t> offsets, std::int64_t first) {
  const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
  std::int64_t last = first + 1;
  while (last < count && offsets[last + 1] - offsets[first] <= batch_tokens) ++last;
  return last;
}

AttentionMode parse_attention(const std::string& text) {
  if (text == "auto") return AttentionMode::automatic;
  if (text == "causal") return AttentionMode::causal;
  if (text == "bidirectional") return AttentionMode::bidirectional;
  fail(Exit::usage, "--attention {}: auto, causal or bidirectional", text);
}

TextEncoder::TextEncoder(Tokenizer tokenizer, Decoder decoder)
    : tokenizer_(std::move(tokenizer)), decoder_(std::move(decoder)) {}

TextEncoder TextEncoder::load(Exec& exec, const std::string& dir, DType compute) {
  Tokenizer tokenizer = Tokenizer::load(dir);
  return {std::move(tokenizer), Decoder::load(exec, module_folder(dir, "text_encoder"), compute)};
}

bool TextEncoder::is_causal(AttentionMode mode) const {
  return mode == AttentionMode::automatic ? config().causal : mode == AttentionMode::causal;
}

Encoded TextEncoder::encode(Exec& exec, std::span<const std::string> captions,
                            const EncodeOptions& options) const {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets{0};
  for (const std::string& caption : captions) {
    const auto own = tokenize(caption, options.max_tokens);
    ids.insert(ids.end(), own.begin(), own.end());
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
  return encode_ids(exec, ids, offsets, options);
}

std::vector<std::int32_t> TextEncoder::tokenize(const std::string& caption,
                                                std::size_t max_tokens) const {
  return tokenizer_.encode(caption, true, max_tokens == 0 ? default_max_tokens : max_tokens);
}

Encoded TextEncoder::encode_ids(Exec& exec, std::span<const std::int32_t> ids,
                                std::span<const std::int64_t> offsets,
                                const EncodeOptions& options) const {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
  STRATA_CHECK(count >= 0 && offsets.front() == 0 && offsets.back() == tokens);
  Encoded out;
  out.ids = Buffer(DType::i64, {tokens});
  std::copy(ids.begin(), ids.end(), out.ids.as<std::int64_t>());
  out.offsets = Buffer(DType::i64, {count + 1});
  std::copy(offsets.begin(), offsets.end(), out.offsets.as<std::int64_t>());
  const std::int64_t layers = config().layers;
  HiddenStates states(layers, width(), tokens, count, options);

  for (std::int64_t first = 0, last = 0; first < count; first = last) {
    last = end_of_batch(offsets, first);
    const std::int64_t begin = offsets[first], end = offsets[last];
    if (begin == end) continue;
    std::vector<std::int64_t> local(offsets.begin() + first, offsets.begin() + last + 1);
    for (std::int64_t& at : local) at -= begin;
    const Tensor ranges = view_of(local.data(), {last - first + 1});
    const ArenaScope scope(exec.arena);
    states.begin_batch(exec, begin, end, first, local);
    decoder_.forward(exec, out.ids.tensor().rows(begin, end), ranges, is_causal(options.attention),
                     [&](std::int64_t k, Tensor hidden) { states.take(exec, k, hidden); });
    states.end_batch(exec);
  }
  out.hidden = std::move(states.hidden);
  out.pooled = std::move(states.pooled);
  out.layers = std::move(states.layers);
  return out;
}

}  // namespace strata
