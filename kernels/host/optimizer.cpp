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
  double squares = 0, non_finite = 0;
};

Stats stats_of(const float* g, std::int64_t count) {
  Stats stats;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += double{g[i]} * double{g[i]};
  if (std::isfinite(sum)) return {sum, 0};  // no square of an f32 overflows an f64
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isfinite(g[i]))
      stats.squares += double{g[i]} * double{g[i]};
    else
      stats.non_finite += 1;
  }
  return stats;
}

}  // namespace

void HostBackend::gradient_stats(Exec& exec, Tensor squares, Tensor non_finite, Tensor grad,
                                 std::int64_t section) {
  constexpr std::int64_t piece = 16384;
  const std::int64_t sections = squares.numel(), pieces = (section + piece - 1) / piece;
  const ArenaScope scope(exec.arena);
  const Tensor partial = exec.empty(DType::f64, {sections * pieces, 2});
  auto* stats = reinterpret_cast<Stats*>(partial.data);
  const float* g = grad.as<float>();
  const std::int64_t count = grad.numel();
  for_rows(exec, sections * pieces, piece, [=](std::int64_t i) {
    const std::int64_t from = i / pieces * section;
    const std::int64_t begin = std::min(from + i % pieces * piece, count);
    const std::int64_t end = std::min({begin + piece, from + section, count});
    stats[i] = stats_of(g + begin, end - begin);
  });
  for (std::int64_t s = 0; s < sections; ++s) {
    Stats sum;
    for (std::int64_t i = s * pieces; i < (s + 1) * pieces; ++i) {
      sum.squares += stats[i].squares;
      sum.non_finite += stats[i].non_finite;
    }
    squares.as<double>()[s] = sum.squares;
    *non_finite.as<double>() += sum.non_finite;
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
