#include "text/encoder_reference.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "text/text_encoder.hpp"

namespace strata {

EncoderReference::EncoderReference(const std::string& path) {
  const SafetensorsFile file(path);
  ids = file.read_i64("input_ids");
  offsets = file.read_i64("offsets");
  layers = file.read_f32("layers");
  const Shape &tokens = ids.tensor().shape, &shape = layers.tensor().shape;
  if (tokens.rank() != 1 || tokens[0] < 1)
    fail(Exit::data, "{}: tensor input_ids: shape {}, wanted (T), T > 0", path, to_string(tokens));
  const auto* at = offsets.as<std::int64_t>();
  const std::int64_t count = offsets.tensor().numel();
  if (offsets.tensor().shape.rank() != 1 || count < 2 || at[0] != 0 || at[count - 1] != tokens[0] ||
      !std::is_sorted(at, at + count))
    fail(Exit::data, "{}: tensor offsets: not (n+1) rising numbers from 0 to {}", path, tokens[0]);
  if (shape.rank() != 3 || shape[1] != tokens[0])
    fail(Exit::data, "{}: tensor layers: shape {}, wanted (L+1, {}, D)", path, to_string(shape),
         tokens[0]);
  const auto* id = ids.as<std::int64_t>();
  for (std::int64_t i = 0; i < tokens[0]; ++i)
    if (id[i] < 0 || id[i] > std::int64_t{1} << 30)
      fail(Exit::data, "{}: tensor input_ids: {} at {}", path, id[i], i);
}

LayerDifferences compare_layers(Exec& exec, const TextModel& model,
                                const EncoderReference& reference, bool causal) {
  const TextConfig& config = model.config();
  const Tensor theirs = reference.layers;
  if (theirs.shape[0] != config.layers + 1 || theirs.shape[2] != config.width)
    fail(Exit::data, "layers of the reference are {}; the model's are ({}, T, {})",
         to_string(theirs.shape), config.layers + 1, config.width);
  const std::int64_t tokens = theirs.shape[1], plane = tokens * config.width;
  const auto* id = reference.ids.as<std::int64_t>();
  const std::vector<std::int32_t> ids(id, id + tokens);
  const std::span offsets(reference.offsets.as<std::int64_t>(),
                          static_cast<std::size_t>(reference.offsets.tensor().numel()));
  EncodeOptions options;
  options.all_layers = true;
  const Encoded ours = encode_ids(exec, model, ids, offsets, causal, options);

  LayerDifferences found;
  for (std::int64_t k = 0; k <= config.layers; ++k) {
    const float* x = ours.layers.as<float>() + k * plane;
    const float* y = theirs.as<float>() + k * plane;
    double difference = 0, size = 0;
    for (std::int64_t i = 0; i < plane; ++i) {
      const double d = static_cast<double>(x[i]) - y[i];
      difference += d * d;
      size += static_cast<double>(y[i]) * y[i];
    }
    found.by_layer.push_back(size == 0 && difference == 0 ? 0 : std::sqrt(difference / size));
    found.largest = std::max(found.largest, found.by_layer.back());
  }
  return found;
}

}  // namespace strata
