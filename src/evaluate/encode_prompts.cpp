#include "evaluate/encode_prompts.hpp"

#include "core/error.hpp"

namespace strata {

EncodedPrompts encode_prompts(Exec& exec, const TextEncoder& encoder,
                              std::span<const std::string> texts, const TextSettings& settings,
                              const UNetConfig& config) {
  const std::int64_t width = encoder.width();
  if (width != config.text_dim())
    fail(Exit::mismatch, "the text encoder gives {} numbers a token, the U-Net takes {}", width,
         config.text_dim());
  if (settings.pooled && width != config.pooled_dim)
    fail(Exit::mismatch, "the text encoder's pooled vector has {} numbers, the U-Net takes {}",
         width, config.pooled_dim);
  EncodeOptions options{.strategies = {settings.strategy},
                        .pooled = settings.pooled,
                        .attention = parse_attention(settings.attention),
                        .max_tokens = static_cast<std::size_t>(settings.max_tokens)};
  Encoded encoded = encoder.encode(exec, texts, options);
  return {std::move(encoded.hidden.at(0)), std::move(encoded.offsets), std::move(encoded.pooled)};
}

}  // namespace strata
