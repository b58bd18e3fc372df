// Text models on a GPU: the host's states within rounding, and padded passes bitwise the same
// called and played.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "golden.hpp"
#include "tests/compare.hpp"
#include "tests/gpu.hpp"
#include "text/padded_passes.hpp"

namespace strata {
namespace {

using test::relative_l2;
using test::same;

class TextOnGpu : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const std::string why = test::missing_gpu(); !why.empty()) GTEST_SKIP() << why;
    device_ = cuda_device();
    const auto vocabulary = TextConfig::from_json_file(folder_ + "/config.json").vocabulary;
    for (int text = 0; text < 24; ++text) {
      for (int i = 0; i < 3 + 5 * text % 13; ++i)
        ids_.push_back(static_cast<std::int32_t>((7 * ids_.size() + 3) % vocabulary));
      offsets_.push_back(std::ssize(ids_));
    }
  }
  /// In `compute` on a device; padded: in padded passes, `rounds` times, of which the last counts.
  Encoded encode(Device device, DType compute) const {
    Exec exec(device, 1);
    const TextModel model = TextModel::load(exec, folder_, compute);
    return encode_ids(exec, model, ids_, offsets_, model.config().causal, options_);
  }
  Encoded encode_padded(DType compute, bool recorded) const {
    Exec exec(device_, 1);
    const TextModel model = TextModel::load(exec, folder_, compute);
    const bool causal = model.config().causal;
    PaddedPasses padded(exec, model, causal, options_, 20, recorded);
    EncodeOptions through = options_;
    through.padded = &padded;
    Encoded last;
    for (int round = 0; round < 3; ++round)
      last = encode_ids(exec, model, ids_, offsets_, causal, through);
    EXPECT_EQ(padded.recordings(), recorded ? 1u : 0u);
    return last;
  }

  std::string folder_ = golden_path(std::string("encoders/") + GetParam());
  Device device_;
  EncodeOptions options_{.strategies = {"last", "norm_avg"}, .pooled = true};
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> offsets_{0};
};

TEST_P(TextOnGpu, StatesAreTheHosts) {
  const Encoded exact = encode(host_device, DType::f32), narrow = encode(host_device, DType::bf16);
  const Encoded wide_there = encode(device_, DType::f32);
  const Encoded narrow_there = encode(device_, DType::bf16);
  const auto all = [](const Encoded& of) {
    return std::array{&of.hidden[0], &of.hidden[1], &of.pooled};
  };
  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    // Both are within 2e-5 of transformers (text_model_test).
    EXPECT_LE(relative_l2(*all(wide_there)[i], *all(exact)[i]), 4e-5);
    EXPECT_LE(relative_l2(*all(narrow_there)[i], *all(exact)[i]),
              2 * relative_l2(*all(narrow)[i], *all(exact)[i]));
  }
}

TEST_P(TextOnGpu, PaddedPassesAreTheSameCalledAndPlayed) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Encoded called = encode_padded(compute, false), played = encode_padded(compute, true);
    for (std::size_t s = 0; s < options_.strategies.size(); ++s)
      EXPECT_TRUE(same(called.hidden[s], played.hidden[s])) << options_.strategies[s];
    EXPECT_TRUE(same(called.pooled, played.pooled));
    // Packed, they may go through other kernels.
    const Encoded packed = encode(device_, compute);
    const double rounding = compute == DType::f32 ? 4e-5 : 0x1p-6;
    for (std::size_t s = 0; s < options_.strategies.size(); ++s)
      EXPECT_LE(relative_l2(played.hidden[s], packed.hidden[s]), rounding);
  }
}

INSTANTIATE_TEST_SUITE_P(Encoders, TextOnGpu,
                         testing::Values("clip", "clip_projected", "gemma2", "llama3", "mistral",
                                         "qwen2", "t5", "t5_relu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace strata
