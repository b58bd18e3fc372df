#pragma once
// The bench on which every op is tested: once for each dtype, against the double reference on the
// same (rounded) inputs, on one thread and on two with equal bits. One source serves both backends:
// the program is built for the host and, in preset `cuda`, again with STRATA_TESTED_DEVICE=cuda;
// there tensors lie in memory that host and device both see, and tests are skipped without a GPU.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/exec.hpp"
#include "kernels/backend.hpp"
#include "kernels/ops.hpp"
#include "kernels/reference/reference.hpp"
#include "tests/gpu.hpp"

namespace strata {

using reference::Array;
using reference::Offsets;

#ifndef STRATA_TESTED_DEVICE
#define STRATA_TESTED_DEVICE host
#endif

/// What a test program runs on.
struct Target {
  Device device;
  DType dtype;
};
inline std::vector<Target> targets() {
  constexpr Device device{DeviceKind::STRATA_TESTED_DEVICE, 0};
  return {{device, DType::f32}, {device, DType::bf16}};
}
inline std::string target_name(const testing::TestParamInfo<Target>& info) {
  return std::string(info.param.device.kind == DeviceKind::host ? "host" : "cuda") + "_" +
         std::string(name_of(info.param.dtype));
}

/// Unit roundoff: half the distance between 1 and the next number.
inline double roundoff(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : 0x1p-24;
}

/// The error allowed in one output element, given:
///   - it is stored in `stored`, after `roundings` roundings to that type (one: the store itself),
///     each of at most roundoff(stored) of the value;
///   - it is a sum of `length` terms in f32. Rounding errors of a sum of n terms of the size of the
///     output behave like a random walk: standard deviation <= sqrt(n) u rms (Higham & Mary 2019,
///     with probability bounds); 8 deviations cover the largest of the 10^6 elements of a test,
///     with room for the 2 ulp of exp and erf.
struct Tolerance {
  DType stored;
  std::int64_t length = 1;
  int roundings = 1;

  double allowed(double value, double rms) const {
    const double walk = 8 * std::sqrt(static_cast<double>(length)) * roundoff(DType::f32);
    return roundings * roundoff(stored) * std::abs(value) + walk * (rms + std::abs(value));
  }
};

class OpTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (GetParam().device == host_device) return;
    if (const std::string why = test::missing_gpu(); !why.empty()) GTEST_SKIP() << why;
  }
  void TearDown() override {
    for (const Tensor& t : visible_) cuda::release_visible(t.data);
  }

  DType type() const { return GetParam().dtype; }

  /// Normal values times `scale` plus `shift`, rounded to dtype; lives as long as the test.
  Tensor random(DType dtype, Shape shape, double scale = 1, double shift = 0) {
    std::normal_distribution<double> normal(shift, scale);
    Array values(shape);
    for (auto& value : values.data) value = normal(engine_);
    return upload(dtype, values);
  }
  Tensor random(Shape shape, double scale = 1, double shift = 0) {
    return random(type(), shape, scale, shift);
  }
  Tensor upload(DType dtype, const Array& values) {
    const Tensor t = allocate(dtype, values.shape);
    for (std::int64_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<float>(values[i]);
      if (dtype == DType::bf16)
        t.as<bf16>()[i] = to_bf16(value);
      else
        t.as<float>()[i] = value;
    }
    return t;
  }
  /// Memory full of NaN: an element that an op forgets is found.
  Tensor blank(DType dtype, Shape shape) { return upload(dtype, Array(shape, std::nan(""))); }
  Tensor blank(Shape shape) { return blank(type(), shape); }
  static Buffer counts(const Offsets& values) {
    Buffer buffer(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), buffer.as<std::int64_t>());
    return buffer;
  }
  Tensor offsets(const Offsets& values) { return kept_.emplace_back(counts(values)); }
  /// Memory of the tested device that the test itself reads and writes.
  Tensor allocate(DType dtype, Shape shape) {
    const Device device = GetParam().device;
    if (device == host_device) {
      kept_.emplace_back(dtype, shape);
      return kept_.back();
    }
    Tensor t{nullptr, dtype, device, shape};
    t.data = static_cast<std::byte*>(cuda::allocate_visible(device, t.bytes()));
    visible_.push_back(t);
    return t;
  }
  /// A host buffer where the tested device sees it.
  Tensor visible(const Buffer& from) {
    const Tensor t = allocate(from.tensor().dtype, from.tensor().shape);
    std::copy_n(from.tensor().data, t.bytes(), t.data);
    return t;
  }
  Tensor integers(const std::vector<std::int64_t>& values) { return offsets(values); }

  static Array values(const Tensor& t) {
    Array array(t.shape);
    for (std::int64_t i = 0; i < array.size(); ++i)
      array[i] = t.dtype == DType::bf16 ? to_float(t.as<bf16>()[i]) : t.as<float>()[i];
    return array;
  }

  /// Runs the op on one thread and on two: the outputs, equal before, must be equal bit for bit
  /// after.
  void run(const std::vector<Tensor>& outputs, const std::function<void(Exec&)>& op) {
    std::vector<std::string> before, after;
    for (const auto& t : outputs) before.push_back(bytes(t));
    for (const int threads : {2, 1}) {
      Exec exec(GetParam().device, threads);
      for (std::size_t i = 0; i < outputs.size(); ++i)
        before[i].copy(reinterpret_cast<char*>(outputs[i].data), before[i].size());
      const std::size_t used = exec.arena.used_bytes();
      op(exec);
      exec.synchronize();
      EXPECT_EQ(exec.arena.used_bytes(), used) << "temporaries left in the arena";
      if (threads == 2)
        for (const auto& t : outputs) after.push_back(bytes(t));
    }
    for (std::size_t i = 0; i < outputs.size(); ++i)
      EXPECT_TRUE(bytes(outputs[i]) == after[i]) << "output " << i << " depends on the threads";
  }

  /// Every element of `got` within the tolerance of `want`; noise: what a relative error of one in
  /// the op's own stored inputs (o of attention) makes of this output, 8 deviations of it are
  /// allowed.
  static void expect_close(const std::string& name, const Tensor& got, const Array& want,
                           const Tolerance& tolerance, const Array& noise = {}) {
    const Array have = values(got);
    ASSERT_EQ(have.size(), want.size()) << name;
    double squares = 0;
    for (const double value : want.data) squares += value * value;
    const double rms = want.empty() ? 0 : std::sqrt(squares / static_cast<double>(want.size()));
    std::int64_t worst = -1;
    double excess = 1;
    for (std::int64_t i = 0; i < want.size(); ++i) {
      const double error = std::abs(have[i] - want[i]);
      const double stored =
          8 * roundoff(tolerance.stored) * (noise.empty() ? 0 : std::abs(noise[i]));
      const double ratio = error / (tolerance.allowed(want[i], rms) + stored + 1e-37);
      if (!(ratio <= excess)) {
        excess = std::isnan(ratio) ? HUGE_VAL : ratio;
        worst = i;
      }
    }
    EXPECT_EQ(worst, -1) << name << "[" << worst << "] = " << have[std::max(worst, std::int64_t{0})]
                         << ", not " << want[std::max(worst, std::int64_t{0})] << ": " << excess
                         << " times the tolerance (rms " << rms << ")";
  }

  /// a + b, for accumulated outputs that began at a.
  static Array sum(const Array& a, const Array& b) {
    Array total = a;
    for (std::int64_t i = 0; i < total.size(); ++i) total[i] += b[i];
    return total;
  }

 private:
  static std::string bytes(const Tensor& t) {
    return {reinterpret_cast<const char*>(t.data), t.bytes()};
  }

  std::mt19937_64 engine_{20261121};
  std::vector<Buffer> kept_;
  std::vector<Tensor> visible_;
};

#define STRATA_INSTANTIATE(suite) \
  INSTANTIATE_TEST_SUITE_P(, suite, testing::ValuesIn(targets()), target_name)

}  // namespace strata
