// Chains of multiply-adds that no memory and no dependency holds up: what a kernel is measured
// against.

#include "kernels/host/peaks.hpp"

#include <omp.h>

#include <cstdint>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace strata::host {

namespace {

constexpr int chains = 12;  // more than the latency of a multiply-add times the units that do it
constexpr std::int64_t rounds = 4'000'000;

#ifdef __AVX512F__
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
using Vector = float __attribute__((vector_size(lanes * sizeof(float))));

/// The compiler must think that the value is used and may have changed.
template <class T>
void opaque(T& value) {
  asm volatile("" : "+x"(value));
}

/// step(sum) changes the sum of each chain, `rounds` times.
template <class Sum, class Step>
void run_chains(Step step) {
  Sum sums[chains];
  for (int c = 0; c < chains; ++c) {
    sums[c] = Sum{} + static_cast<float>(c);
    opaque(sums[c]);  // equal chains would be computed once
  }
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) step(sum);
  for (auto& sum : sums) opaque(sum);
}

}  // namespace

double multiply_add(int threads, [[maybe_unused]] DType dtype) {
  double each = 2.0 * lanes;  // FLOPs of an instruction
#ifdef __AVX512BF16__
  if (dtype == DType::bf16) each *= 2;
#endif
#pragma omp parallel num_threads(threads)
  {
#ifdef __AVX512BF16__
    if (dtype == DType::bf16) {
      __m512 factor = _mm512_set1_ps(0.5f);
      opaque(factor);
      const auto pairs = (__m512bh)factor;
      run_chains<__m512>([&](__m512& sum) { sum = _mm512_dpbf16_ps(sum, pairs, pairs); });
    } else
#endif
    {
      Vector factor = Vector{} + 0.999f;
      opaque(factor);
      run_chains<Vector>([&](Vector& sum) { sum = sum * factor + factor; });
    }
  }
  return each * chains * static_cast<double>(rounds) * threads;
}

}  // namespace strata::host
