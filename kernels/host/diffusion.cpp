// The forward process and its loss.

#include <cmath>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

void HostBackend::draw_posterior(Exec& exec, Tensor y, Tensor moments, Tensor noise) {
  const std::int64_t batch = y.shape[0], width = batch == 0 ? 0 : y.numel() / batch;
  const float *parameters = moments.as<float>(), *eps = noise.as<float>();
  float* to = y.as<float>();
  for_rows(exec, batch, width, [=](std::int64_t b) {
    const float *mean = parameters + 2 * b * width, *deviation = mean + width;
    for (std::int64_t i = 0; i < width; ++i)
      to[b * width + i] = std::fma(deviation[i], eps[b * width + i], mean[i]);
  });
}

void HostBackend::add_noise(Exec& exec, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s) {
  const std::int64_t batch = y.shape[0], width = batch == 0 ? 0 : y.numel() / batch;
  const float *clean = x.as<float>(), *eps = noise.as<float>();
  const float *signal = a.as<float>(), *sigma = s.as<float>();
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    T* to = y.as<T>();
    for_rows(exec, batch, width, [=](std::int64_t b) {
      for (std::int64_t i = b * width; i < (b + 1) * width; ++i)
        to[i] = from_float<T>(signal[b] * clean[i] + sigma[b] * eps[i]);
    });
  });
}

void HostBackend::mse_loss(Exec& exec, Tensor loss, Tensor dprediction, Tensor prediction,
                           Tensor target, Tensor weight, float grad_scale) {
  constexpr std::int64_t piece = 1024;  // summed in f32, pieces in double
  const std::int64_t batch = prediction.shape[0];
  const std::int64_t width = batch == 0 ? 0 : prediction.numel() / batch;
  float* losses = loss.as<float>();
  const float* wanted = target.as<float>();
  const float* weights = dprediction ? weight.as<float>() : nullptr;
  with_type(prediction.dtype, [&](auto type) {
    using T = decltype(type);
    const T* got = prediction.as<T>();
    T* gradient = dprediction ? dprediction.as<T>() : nullptr;
    for_rows(exec, batch, width, [=](std::int64_t b) {
      double total = 0;
      for (std::int64_t begin = b * width; begin < (b + 1) * width; begin += piece) {
        const std::int64_t end = std::min(begin + piece, (b + 1) * width);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = begin; i < end; ++i) {
          const float difference = to_float(got[i]) - wanted[i];
          sum += difference * difference;
        }
        total += sum;
      }
      losses[b] = static_cast<float>(total / static_cast<double>(width));
      if (!gradient) return;
      const float factor = 2.0f * weights[b] * grad_scale / static_cast<float>(width);
      for (std::int64_t i = b * width; i < (b + 1) * width; ++i)
        gradient[i] = from_float<T>(factor * (to_float(got[i]) - wanted[i]));
    });
  });
}

}  // namespace strata::host
