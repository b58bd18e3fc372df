// AdamW and what it needs of the gradient.

#include <cmath>
#include <cstring>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/portable/math.hpp"

namespace strata::host {

void HostBackend::adamw(Exec& exec, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad,
                        Tensor ema, Tensor decision) {
  portable::UpdateDecision decided;
  std::memcpy(&decided, decision.data, sizeof decided);
  if (!decided.applied) return;
  const portable::AdamWStep update = decided.update.step;
  const float ema_decay = decided.update.ema_decay;
  float *weight = master.as<float>(), *mean = m.as<float>(), *square = v.as<float>();
  const float* gradient = grad.as<float>();
  float* average = ema ? ema.as<float>() : nullptr;
  with_type(param.dtype, [&](auto type) {
    using T = decltype(type);
    T* rounded = param.as<T>();
    for_elements(exec, master.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        portable::adamw(weight[i], mean[i], square[i], gradient[i], update);
        rounded[i] = from_float<T>(weight[i]);
      }
      if (!average) return;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        average[i] = ema_decay * average[i] + (1.0f - ema_decay) * weight[i];
    });
  });
}

namespace {

struct Stats {
  double squares = 0;
  std::int64_t non_finite = 0;
};

Stats stats_of(Exec& exec, const float* g, std::int64_t count) {
  constexpr std::int64_t piece = 16384;
  const std::int64_t pieces = (count + piece - 1) / piece;
  const ArenaScope scope(exec.arena);
  const Tensor storage = exec.empty(DType::u8, {pieces * static_cast<std::int64_t>(sizeof(Stats))});
  auto* partial = reinterpret_cast<Stats*>(storage.data);
  for_rows(exec, pieces, piece, [=](std::int64_t i) {
    double sum = 0;
    std::int64_t bad = 0;
    const std::int64_t end = std::min(count, (i + 1) * piece);
#pragma omp simd reduction(+ : sum, bad)
    for (std::int64_t j = i * piece; j < end; ++j) {
      const bool finite = (std::bit_cast<std::uint32_t>(g[j]) & 0x7f800000u) != 0x7f800000u;
      const double value = finite ? g[j] : 0.0f;
      sum += value * value;
      bad += !finite;
    }
    partial[i] = {sum, bad};
  });
  Stats total;
  for (std::int64_t i = 0; i < pieces; ++i) {
    total.squares += partial[i].squares;
    total.non_finite += partial[i].non_finite;
  }
  return total;
}

}  // namespace

void HostBackend::gradient_stats(Exec& exec, Tensor squares, Tensor non_finite, Tensor grad,
                                 std::int64_t section) {
  const auto* g = grad.as<float>();
  for (std::int64_t i = 0; i < squares.numel(); ++i) {
    const Stats stats =
        stats_of(exec, g + i * section, std::min(section, grad.numel() - i * section));
    squares.as<double>()[i] = stats.squares;
    *non_finite.as<double>() += static_cast<double>(stats.non_finite);
  }
}

void HostBackend::decide_update(Exec&, Tensor decision, Tensor candidates, Tensor squares,
                                Tensor non_finite) {
  portable::UpdateDecision decided;
  portable::UpdateCandidates from;
  std::memcpy(&decided, decision.data, sizeof decided);
  std::memcpy(&from, candidates.data, sizeof from);
  portable::decide_update(decided, from, squares.as<double>(), squares.numel(),
                          *non_finite.as<double>());
  std::memcpy(decision.data, &decided, sizeof decided);
}

void HostBackend::accumulate(Exec& exec, Tensor a, Tensor b) {
  float* to = a.as<float>();
  with_type(b.dtype, [&](auto type) {
    const auto* from = b.as<decltype(type)>();
    for_elements(exec, a.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) to[i] += to_float(from[i]);
    });
  });
}

}  // namespace strata::host
