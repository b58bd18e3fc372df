#include "model/unet_example.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "model/weights.hpp"

namespace strata {

namespace {

using Extents = std::vector<std::int64_t>;

/// -1 in `wanted` is any extent of at least one.
const SafetensorsFile::Entry& checked_entry(const SafetensorsFile& file, const std::string& name,
                                            const Extents& wanted) {
  if (!file.contains(name)) fail(Exit::data, "{}: tensor {} is missing", file.path(), name);
  const auto& entry = file.entries().at(name);
  bool fits = entry.shape.size() == wanted.size();
  for (std::size_t i = 0; fits && i < wanted.size(); ++i)
    fits = wanted[i] < 0 ? entry.shape[i] > 0 : entry.shape[i] == wanted[i];
  if (fits) return entry;
  std::vector<std::string> extents;
  for (const std::int64_t extent : wanted)
    extents.push_back(extent < 0 ? "any" : std::to_string(extent));
  fail(Exit::data, "{}: tensor {} has shape ({}), wanted ({})", file.path(), name,
       fmt::join(entry.shape, ", "), fmt::join(extents, ", "));
}

Buffer read_checked(const SafetensorsFile& file, const std::string& name, const Extents& wanted) {
  checked_entry(file, name, wanted);
  return file.read_f32(name);
}

/// One a sample, or a single one () or (1) for all of them.
Buffer read_timesteps(const SafetensorsFile& file, std::int64_t batch) {
  const char* name = "timestep";
  const bool single = file.contains(name) && (file.entries().at(name).shape.empty() ||
                                              file.entries().at(name).shape == Extents{1});
  if (!single) checked_entry(file, name, {batch});
  const Buffer whole = file.read_i64(name);
  Buffer timesteps(DType::f32, {batch});
  for (std::int64_t b = 0; b < batch; ++b)
    timesteps.as<float>()[b] = static_cast<float>(whole.as<std::int64_t>()[single ? 0 : b]);
  return timesteps;
}

/// Every level halves the image; with downsample_padding 0 a side of 1 has no half.
void check_size(const SafetensorsFile& file, const UNetConfig& config, const Shape& sample) {
  if (config.downsample_padding != 0) return;
  const std::int64_t least = std::int64_t{1} << (config.levels() - 1);
  if (sample[2] < least || sample[3] < least)
    fail(Exit::data, "{}: tensor sample is {} x {}: the model needs {} x {} at least", file.path(),
         sample[2], sample[3], least, least);
}

/// Packs the attended tokens of all captions end to end.
void read_text(const SafetensorsFile& file, const UNetConfig& config, std::int64_t batch,
               UNetExample& example) {
  const std::string name = "encoder_hidden_states", mask_name = "encoder_attention_mask";
  const bool ignored = !config.attends() && config.encoder_hid_dim == 0;
  const auto& extents =
      checked_entry(file, name, {batch, -1, ignored ? -1 : config.text_dim()}).shape;
  const std::int64_t length = extents[1], width = extents[2];
  const Buffer hidden = file.read_f32(name);
  std::vector<std::int64_t> mask(static_cast<std::size_t>(batch * length), 1);
  if (file.contains(mask_name)) {
    checked_entry(file, mask_name, {batch, length});
    const Buffer given = file.read_i64(mask_name);
    std::copy_n(given.as<std::int64_t>(), batch * length, mask.begin());
    for (const std::int64_t value : mask)
      if (value != 0 && value != 1)
        fail(Exit::data, "{}: tensor {} has the value {}, not 0 or 1", file.path(), mask_name,
             value);
  }
  const std::int64_t kept = std::count(mask.begin(), mask.end(), 1);
  if (kept < batch * length && config.replaces_self_attention())
    fail(Exit::data,
         "{}: tensor {} hides tokens, which only_cross_attention = true would still look at: not "
         "supported",
         file.path(), mask_name);
  example.tokens = Buffer(DType::f32, {kept, width});
  example.offsets = Buffer(DType::i64, {batch + 1});
  std::int64_t* offsets = example.offsets.as<std::int64_t>();
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < batch * length; ++i) {
    if (i % length == 0) offsets[i / length] = row;
    if (mask[static_cast<std::size_t>(i)] == 0) continue;
    std::copy_n(hidden.as<float>() + i * width, width, example.tokens.as<float>() + row * width);
    ++row;
  }
  offsets[batch] = row;
}

Tensor upload(Exec& exec, const Buffer& host, DType dtype) {
  const Tensor from = host;
  const Tensor there = exec.empty(from.dtype, from.shape);
  memory::copy(there.data, there.device, from.data, from.device, from.bytes());
  if (from.dtype == dtype) return there;
  const Tensor converted = exec.empty(dtype, from.shape);
  ops::cast(exec, converted, there);
  return converted;
}

Tensor upload_image(Exec& exec, const Buffer& nchw, DType dtype) {
  const Shape& s = nchw.tensor().shape;
  const Tensor nhwc = exec.empty(dtype, {s[0], s[2], s[3], s[1]});
  ops::nchw_to_nhwc(exec, nhwc, upload(exec, nchw, DType::f32));
  return nhwc;
}

Buffer download_image(Exec& exec, Tensor nhwc) {
  const ArenaScope scope(exec.arena);
  const Shape& s = nhwc.shape;
  const Tensor nchw = exec.empty(DType::f32, {s[0], s[3], s[1], s[2]});
  ops::nhwc_to_nchw(exec, nchw, nhwc);
  Buffer host(DType::f32, nchw.shape);
  memory::copy(host.tensor().data, host_device, nchw.data, nchw.device, nchw.bytes());
  return host;
}

/// Returns the loss; dprediction is that of the mean over all elements.
double mean_squared_error(Exec& exec, Tensor dprediction, Tensor prediction, const Buffer& target) {
  const std::int64_t batch = prediction.shape[0];
  const Tensor losses = exec.empty(DType::f32, {batch}), ones = exec.empty(DType::f32, {batch});
  ops::fill(exec, ones, 1.0f);
  ops::mse_loss(exec, losses, dprediction, prediction, upload_image(exec, target, DType::f32), ones,
                1.0f / static_cast<float>(batch));
  Buffer host(DType::f32, {batch});
  memory::copy(host.tensor().data, host_device, losses.data, losses.device, losses.bytes());
  double sum = 0;
  for (std::int64_t b = 0; b < batch; ++b) sum += host.as<float>()[b];
  return sum / static_cast<double>(batch);
}

}  // namespace

UNetExample UNetExample::read(const SafetensorsFile& file, const UNetConfig& config,
                              bool with_target) {
  UNetExample example;
  example.sample = read_checked(file, "sample", {-1, config.in_channels, -1, -1});
  const Shape& shape = example.sample.tensor().shape;
  const std::int64_t batch = shape[0];
  check_size(file, config, shape);
  example.timesteps = read_timesteps(file, batch);
  read_text(file, config, batch, example);
  if (config.pooled_dim)
    example.pooled = read_checked(file, "class_labels", {batch, config.pooled_dim});
  else if (file.contains("class_labels"))
    fail(Exit::data, "{}: tensor class_labels: the model takes no pooled vector", file.path());
  if (with_target)
    example.target = read_checked(file, "target", {batch, config.out_channels, shape[2], shape[3]});
  return example;
}

UNetOutcome run(Exec& exec, const UNet& unet, const Weights& weights, const UNetExample& example,
                Gradients* gradients, bool recompute) {
  const ArenaScope scope(exec.arena);
  const DType dtype = weights.dtype();
  const Tensor sample = upload_image(exec, example.sample, dtype);
  const Tensor timesteps = upload(exec, example.timesteps, DType::f32);
  const TextBatch text{upload(exec, example.tokens, dtype), example.offsets};
  const Tensor pooled = unet.config().pooled_dim ? upload(exec, example.pooled, dtype) : Tensor{};

  UNet::Saved saved{.recompute = recompute};
  const Tensor prediction =
      unet.forward(exec, weights, sample, timesteps, text, pooled, gradients ? &saved : nullptr);
  UNetOutcome outcome{download_image(exec, prediction)};
  if (gradients) {
    const Tensor dprediction = exec.empty(dtype, prediction.shape);
    outcome.loss = mean_squared_error(exec, dprediction, prediction, example.target);
    unet.backward(exec, weights, *gradients, saved, dprediction);
  }
  return outcome;
}

}  // namespace strata
