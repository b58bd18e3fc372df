#include "train/random_work.hpp"

#include <cstring>
#include <numeric>

#include "core/spans.hpp"
#include "core/transfer.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"

namespace strata {

namespace {

constexpr PhiloxKey key{17};

Buffer copy_of(Tensor host) {
  Buffer copy(host.dtype, host.shape);
  std::memcpy(copy.tensor().data, host.data, host.bytes());
  return copy;
}

/// Independent of `exec`'s device: drawn on the host.
Buffer normals(Shape shape) {
  Exec host(host_device);
  Buffer values(DType::f32, shape);
  const PhiloxCounter at{static_cast<std::uint64_t>(shape.numel()), 0, Purpose::noise};
  ops::normals(host, values.tensor().reshape({1, shape.numel()}), key, &at);
  return values;
}

}  // namespace

Buffer random_weights(const UNet& unet) {
  Buffer flat(DType::f32, {unet.parameters().numel()});
  initialize(unet.parameters(), flat, key.seed);
  return flat;
}

MicrobatchShape microbatch_shape(const UNetConfig& unet, const WorkShape& shape) {
  return {.samples = shape.samples,
          .latent = {unet.in_channels, shape.side, shape.side},
          .text_dim = unet.text_dim(),
          .pooled_dim = unet.pooled_dim,
          .longest = shape.tokens,
          .most_rows = shape.tokens * shape.samples,
          .dtype = shape.dtype};
}

Batch random_batch(const UNetConfig& unet, const WorkShape& shape) {
  Batch batch;
  batch.samples.resize(static_cast<std::size_t>(shape.samples));
  std::iota(batch.samples.begin(), batch.samples.end(), 0);
  batch.epochs.assign(batch.samples.size(), 0);
  batch.latents = normals({shape.samples, unet.in_channels, shape.side, shape.side});
  batch.tokens = normals({shape.samples * shape.tokens, unet.text_dim()});
  batch.offsets = Buffer(DType::i64, {shape.samples + 1});
  for (std::int64_t b = 0; b <= shape.samples; ++b)
    batch.offsets.as<std::int64_t>()[b] = b * shape.tokens;
  if (unet.pooled_dim > 0) batch.pooled = normals({shape.samples, unet.pooled_dim});
  return batch;
}

RandomTraining::RandomTraining(Exec& exec, Communicator& communicator, const UNet& unet,
                               Tensor weights, const WorkShape& shape, const Zero2Options& options,
                               bool replays)
    : exec_(exec),
      unet_(unet),
      shape_(microbatch_shape(unet.config(), shape)),
      how_{.grad_scale = 1.0f / static_cast<float>(shape.samples * communicator.size()),
           .recompute = shape.recompute},
      zero_(exec, communicator, unet.parameters(), options),
      input_(exec, shape_),
      batch_(random_batch(unet.config(), shape)),
      captions_(choose_captions(batch_, key, 0)),
      noise_(plan_noise(NoiseSchedule(), key, batch_.samples, batch_.epochs, {})),
      losses_(DType::f32, {shape_.samples}, exec.device()),
      replays_(exec, replays) {
  exec.keep_layouts(false);  // one pass between two updates
  zero_.set_parameters(weights);
}

void RandomTraining::passes() {
  const ArenaScope scope(exec_.arena);
  zero_.gather_updated();
  run_passes(exec_, unet_, zero_.arriving_weights(), zero_, input_.at(shape_.most_rows), how_,
             losses_);
  zero_.end_microbatch();
}

void RandomTraining::step() {
  zero_.begin_step(1);
  input_.set(batch_, captions_, noise_, shape_.most_rows);
  if (!replays_.run(0, [this] { passes(); })) zero_.skip_microbatch();
  const spans::Span span("update", "pass");
  const UpdateOptions update{.adamw = {.lr = 1e-4, .step = ++steps_}};
  zero_.plan_update({&update, 1});
  replays_.run(1, [this] { zero_.update_shard(); });
}

double RandomTraining::mean_loss() const {
  const std::vector<float> losses = to_host(losses_);
  return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
}

RandomEvaluation::RandomEvaluation(Exec& exec, const UNet& unet, Tensor weights,
                                   const WorkShape& shape, std::int64_t without_text)
    : exec_(exec),
      unet_(unet),
      flat_(convert_parameters(copy_of(weights), shape.dtype, exec.device())),
      weights_(unet.parameters(), flat_),
      timesteps_(DType::f32, {shape.samples}, exec.device()),
      offsets_{0},
      replays_(exec) {
  for (std::int64_t b = 0; b < shape.samples; ++b)
    offsets_.push_back(offsets_.back() + (b < without_text ? 0 : shape.tokens));
  const auto there = [&](Shape of) {
    return convert_parameters(normals(of), shape.dtype, exec.device());
  };
  sample_ = there({shape.samples, shape.side, shape.side, unet.config().in_channels});
  tokens_ = there({offsets_.back(), unet.config().text_dim()});
  if (unet.config().pooled_dim > 0) pooled_ = there({shape.samples, unet.config().pooled_dim});
  ops::fill(exec, timesteps_, 501.0f);
}

void RandomEvaluation::evaluate() {
  replays_.run(0, [this] {
    const ArenaScope scope(exec_.arena);
    const TextBatch text{.tokens = tokens_,
                         .offsets = view_of(offsets_.data(), {std::ssize(offsets_)})};
    unet_.forward(exec_, weights_, sample_, timesteps_, text, pooled_, nullptr);
  });
}

}  // namespace strata
