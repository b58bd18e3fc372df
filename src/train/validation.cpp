#include "train/validation.hpp"

#include <algorithm>
#include <vector>

#include "core/transfer.hpp"
#include "diffusion/loss.hpp"
#include "kernels/ops.hpp"
#include "train/conditioning.hpp"
#include "train/latents.hpp"

namespace strata {

namespace {

constexpr PhiloxKey validation_key{0};
constexpr std::uint32_t last_epoch = 0xffffff;  // 24 bits; measurements count down from here

struct Sums {
  static constexpr int cut = 8;
  std::array<double, 9> values{};  // four sums, four counts, whether it was cut short
  void add(int quartile, double loss) {
    values[quartile] += loss;
    values[4 + quartile] += 1;
  }
};

void measure(Exec& exec, const UNet& unet, const Weights& weights, const NoiseSchedule& schedule,
             const Batch& batch, const ValidationOptions& options, int k, Sums& sums) {
  const ArenaScope scope(exec.arena);
  const DType dtype = weights.dtype();
  const auto size = static_cast<std::int64_t>(batch.samples.size());
  std::vector<int> timesteps;
  for (const auto sample : batch.samples)
    timesteps.push_back(validation_timestep(sample, k, options.timesteps, schedule.timesteps()));
  const std::vector<std::uint32_t> epochs(size, last_epoch - static_cast<std::uint32_t>(k));
  const Tensor latents = draw_latents(exec, validation_key, batch, epochs);
  const auto noised = add_noise_to(exec, schedule, validation_key, batch.samples, epochs, latents,
                                   {.dtype = dtype, .timesteps = timesteps});
  const auto conditioning = make_conditioning(exec, batch, dtype, options.pooled);
  const Tensor prediction = unet.forward(exec, weights, noised.sample, noised.timesteps,
                                         conditioning.text, conditioning.pooled, nullptr);
  const Tensor loss = exec.empty(DType::f32, {size});
  ops::mse_loss(exec, loss, {}, prediction, noised.target, noised.weight, 0);
  const std::vector<float> losses = to_host(loss);
  for (std::int64_t b = 0; b < size; ++b)
    sums.add(4 * timesteps[b] / schedule.timesteps(), losses[b]);
}

}  // namespace

int validation_timestep(std::int64_t sample, int k, int count, int timesteps) {
  const PhiloxCounter at{static_cast<std::uint64_t>(sample),
                         last_epoch - static_cast<std::uint32_t>(k), Purpose::timestep};
  const double u = uniform01(random_block(validation_key, at, 0)[0]);
  return std::min(timesteps - 1, static_cast<int>((k + u) * timesteps / count));
}

std::optional<ValidationRecord> run_validation(Exec& exec, const UNet& unet, const Weights& weights,
                                               const NoiseSchedule& schedule,
                                               const CacheSet& caches,
                                               const ValidationOptions& options,
                                               Communicator& communicator) {
  const std::int64_t count = caches.size(CacheSet::Part::validation);
  const std::int64_t ranks = communicator.size();
  Sums sums;
  for (std::int64_t begin = communicator.rank() * options.microbatch; begin < count;
       begin += ranks * options.microbatch) {
    std::vector<SampleOrder::Position> positions;
    for (std::int64_t i = begin; i < std::min(count, begin + options.microbatch); ++i)
      positions.push_back({i, 0});
    const Batch batch = caches.read(positions, CacheSet::Part::validation);
    for (int k = 0; k < options.timesteps && sums.values[Sums::cut] == 0; ++k) {
      measure(exec, unet, weights, schedule, batch, options, k, sums);
      sums.values[Sums::cut] = options.stop() ? 1 : 0;
    }
    if (sums.values[Sums::cut] != 0) break;
  }
  communicator.all_reduce_sum(sums.values);
  if (sums.values[Sums::cut] != 0) return std::nullopt;

  ValidationRecord record;
  record.count = count;
  double sum = 0, measured = 0;
  for (int q = 0; q < 4; ++q) {
    record.quartiles[q] = sums.values[q] / sums.values[4 + q];  // NaN (null) for an empty quartile
    sum += sums.values[q];
    measured += sums.values[4 + q];
  }
  record.loss = sum / measured;
  return record;
}

}  // namespace strata
