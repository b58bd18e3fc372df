#include "text/text_encoder.hpp"

#include <algorithm>
#include <deque>

#include "core/error.hpp"
#include "core/log.hpp"
#include "model/weights.hpp"
#include "text/hidden_states.hpp"
#include "text/padded_passes.hpp"

namespace strata {

TextEncoder::TextEncoder(Tokenizer tokenizer, TextModel model)
    : tokenizer_(std::move(tokenizer)), model_(std::move(model)) {}

TextEncoder TextEncoder::load(Exec& exec, const std::string& dir, DType compute,
                              const std::string& preset, bool streaming) {
  find_preset(preset, dir);  // refuses an unknown name before anything large is read
  Tokenizer tokenizer = Tokenizer::load(dir);
  TextEncoder encoder(
      std::move(tokenizer),
      TextModel::load(exec, module_folder(dir, "text_encoder"), compute, streaming));
  encoder.preset_ = fitting_preset(preset, dir, encoder.config());
  const std::string mismatch = encoder.token_mismatch();
  if (!mismatch.empty() && preset != "auto")
    fail(Exit::data, "{}: is not what preset {} says: {}", dir, preset, mismatch);
  if (!mismatch.empty())
    log::warn("{}: named like preset {}, but {}", dir, encoder.preset_->name, mismatch);
  return encoder;
}

std::string TextEncoder::token_mismatch() const {
  if (!preset_) return "";
  const auto specials = tokenizer_.encode("", true);
  std::vector<std::int32_t> said = preset_->before;
  said.insert(said.end(), preset_->after.begin(), preset_->after.end());
  if (specials == said) return "";
  return fmt::format("special tokens are [{}], not [{}]", fmt::join(specials, ", "),
                     fmt::join(said, ", "));
}

std::size_t TextEncoder::max_tokens(std::size_t asked) const {
  const auto positions = static_cast<std::size_t>(config().positions);
  if (positions == 0) return asked == 0 ? tokenizer_.default_max_tokens() : asked;
  if (asked > positions)
    fail(Exit::usage, "--max-tokens {}: the model has positions for {}", asked, positions);
  return asked == 0 ? std::min(tokenizer_.default_max_tokens(), positions) : asked;
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
  return tokenizer_.encode(caption, true, this->max_tokens(max_tokens));
}

Encoded TextEncoder::encode_ids(Exec& exec, std::span<const std::int32_t> ids,
                                std::span<const std::int64_t> offsets,
                                const EncodeOptions& options) const {
  return strata::encode_ids(exec, model_, ids, offsets, is_causal(options.attention), options);
}

namespace {

/// Captions [first, last) of `out` as a batch of their own; `local` receives its offsets.
TokenBatch batch_of(const Encoded& out, std::int64_t first, std::int64_t last,
                    std::vector<std::int64_t>& local) {
  const auto* at = out.offsets.as<std::int64_t>();
  local.assign(at + first, at + last + 1);
  for (std::int64_t& offset : local) offset -= at[first];
  return {out.ids.tensor().rows(at[first], at[last]), view_of(local.data(), {last - first + 1})};
}

/// Whether the padded passes hold the batch of captions from `caption`, whose tokens begin at
/// `token`: then its states are on their way to their places.
bool encode_padded(PaddedPasses* padded, const TokenBatch& texts, std::int64_t token,
                   std::int64_t caption, const HiddenStates& states) {
  if (!padded || !padded->hold(texts)) return false;
  std::vector<Tensor> hidden;
  for (const Buffer& all : states.hidden)
    hidden.push_back(all.tensor().rows(token, token + texts.ids.numel()));
  const Tensor pooled = states.pooled;
  padded->run(texts, hidden,
              pooled ? pooled.rows(caption, caption + texts.offsets.numel() - 1) : pooled);
  return true;
}

}  // namespace

Encoded encode_ids(Exec& exec, const TextModel& model, std::span<const std::int32_t> ids,
                   std::span<const std::int64_t> offsets, bool causal,
                   const EncodeOptions& options) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
  STRATA_CHECK(count >= 0 && offsets.front() == 0 && offsets.back() == tokens);
  Encoded out;
  out.ids = Buffer(DType::i64, {tokens});
  std::copy(ids.begin(), ids.end(), out.ids.as<std::int64_t>());
  out.offsets = Buffer(DType::i64, {count + 1});
  std::copy(offsets.begin(), offsets.end(), out.offsets.as<std::int64_t>());
  HiddenStates states(model, tokens, count, options);

  bool is_under_way = false;
  for (std::int64_t first = 0; first < count;) {
    const ArenaScope scope(exec.arena);
    std::deque<std::vector<std::int64_t>> local;  // offsets, which the batches view
    std::vector<TokenBatch> pass;
    states.begin_pass();
    do {
      const std::int64_t begin = first;
      first = end_of_batch(offsets, begin, options.batch_tokens);
      if (offsets[begin] == offsets[first]) continue;
      const TokenBatch batch = batch_of(out, begin, first, local.emplace_back());
      is_under_way = encode_padded(options.padded, batch, offsets[begin], begin, states);
      if (is_under_way) continue;
      pass.push_back(batch);
      states.add_batch(exec, offsets[begin], begin, pass.back());
    } while (model.streaming() && first < count);
    if (!pass.empty())
      model.forward(exec, pass, causal, [&](std::size_t batch, std::int64_t k, Tensor hidden) {
        states.take(exec, batch, k, hidden);
        if (model.streaming() && batch + 1 == pass.size() && options.after_state)
          options.after_state(k);
      });
  }
  if (options.padded && !(is_under_way && options.may_be_under_way)) options.padded->finish();
  out.hidden = std::move(states.hidden);
  out.pooled = std::move(states.pooled);
  out.layers = std::move(states.layers);
  return out;
}

}  // namespace strata
