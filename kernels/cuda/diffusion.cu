// The forward process and its loss.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// y = mean + deviation * noise in one rounding; moments (B, 2 width) = [mean | deviation].
template <int n>
__global__ void __launch_bounds__(threads)
    draw_posterior_kernel(float* y, const float* moments, const float* noise, std::int64_t groups,
                          std::int64_t a_sample) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const float* mean_at = moments + (group + group / a_sample * a_sample) * n;
  const auto mean = Vec<float, n>::load(mean_at);
  const auto deviation = Vec<float, n>::load(mean_at + a_sample * n);
  auto to = Vec<float, n>::load(noise + group * n);
#pragma unroll
  for (int i = 0; i < n; ++i) to.v[i] = fmaf(deviation.v[i], to.v[i], mean.v[i]);
  to.store(y + group * n);
}

template <int n, class T>
__global__ void __launch_bounds__(threads)
    add_noise_kernel(T* y, const float* x, const float* noise, const float* a, const float* s,
                     std::int64_t groups, std::int64_t a_sample) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const float signal = a[group / a_sample], sigma = s[group / a_sample];
  const auto clean = Vec<float, n>::load(x + group * n),
             eps = Vec<float, n>::load(noise + group * n);
  Vec<T, n> to;
#pragma unroll
  for (int i = 0; i < n; ++i) to.v[i] = from_float<T>(signal * clean.v[i] + sigma * eps.v[i]);
  to.store(y + group * n);
}

/// One block a sample.
template <class T>
__global__ void __launch_bounds__(threads)
    mse_loss_kernel(float* loss, T* gradient, const T* prediction, const float* target,
                    const float* weight, float grad_scale, std::int64_t width) {
  const std::int64_t begin = std::int64_t{blockIdx.x} * width;
  const float factor =
      gradient ? 2.0f * weight[blockIdx.x] * grad_scale / static_cast<float>(width) : 0.0f;
  double total = 0;
  for (std::int64_t i = begin + threadIdx.x; i < begin + width; i += threads) {
    const float difference = to_float(prediction[i]) - target[i];
    total += double{difference} * difference;
    if (gradient) gradient[i] = from_float<T>(factor * difference);
  }
  total = block_sum<threads>(total);
  if (threadIdx.x == 0) loss[blockIdx.x] = static_cast<float>(total / static_cast<double>(width));
}

}  // namespace

void CudaBackend::draw_posterior(Exec&, Tensor y, Tensor moments, Tensor noise) {
  if (y.numel() == 0) return;
  const std::int64_t width = y.numel() / y.shape[0];
  with_width<float>(is_wide(width, y, moments, noise), [&](auto n) {
    const std::int64_t groups = y.numel() / n;
    draw_posterior_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream()>>>(
        y.as<float>(), moments.as<float>(), noise.as<float>(), groups, width / n);
    STRATA_LAUNCHED("draw_posterior");
  });
}

void CudaBackend::add_noise(Exec&, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s) {
  if (y.numel() == 0) return;
  const std::int64_t width = y.numel() / y.shape[0];
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(width, y, x, noise), [&](auto n) {
      const std::int64_t groups = y.numel() / n;
      add_noise_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream()>>>(
          y.as<T>(), x.as<float>(), noise.as<float>(), a.as<float>(), s.as<float>(), groups,
          width / n);
      STRATA_LAUNCHED("add_noise");
    });
  });
}

void CudaBackend::mse_loss(Exec&, Tensor loss, Tensor dprediction, Tensor prediction, Tensor target,
                           Tensor weight, float grad_scale) {
  const std::int64_t batch = prediction.shape[0];
  if (batch == 0) return;
  with_type(prediction.dtype, [&](auto type) {
    using T = decltype(type);
    mse_loss_kernel<<<blocks(batch), threads, 0, stream()>>>(
        loss.as<float>(), optional<T>(dprediction), prediction.as<T>(), target.as<float>(),
        optional<float>(weight), grad_scale, prediction.numel() / batch);
    STRATA_LAUNCHED("mse_loss");
  });
}

}  // namespace strata::cuda
