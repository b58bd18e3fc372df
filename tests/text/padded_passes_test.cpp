// Passes over padded batches against the calls that they stand for, by the rules of recording.

#include "text/padded_passes.hpp"

#include "core/error.hpp"
#include "golden.hpp"
#include "tests/compare.hpp"

namespace strata {
namespace {

using test::same;

/// Texts of ids that the model knows, of the given lengths.
struct Texts {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets{0};

  Texts(const TextConfig& config, std::span<const std::int64_t> lengths) {
    for (const std::int64_t length : lengths) {
      for (std::int64_t i = 0; i < length; ++i)
        ids.push_back(static_cast<std::int32_t>((7 * ids.size() + 3) % config.vocabulary));
      offsets.push_back(std::ssize(ids));
    }
  }
};

class PaddedPassesTest : public testing::TestWithParam<const char*> {
 protected:
  Exec exec_{host_device, 2};
};

// Every family: learned, rotary and relative positions, windows, softcaps, projections.
TEST_P(PaddedPassesTest, GiveTheBitsOfCallsCalledAndRecorded) {
  for (const DType compute : {DType::f32, DType::bf16})
    for (const bool causal : {false, true}) {
      const TextModel model = TextModel::load(exec_, golden_path(GetParam()), compute);
      EncodeOptions options{.strategies = {"last", "layer:1", "avg", "norm_avg"}, .pooled = true};
      options.batch_tokens = 700;  // 8 buckets, the last of 1024 rows
      PaddedPasses padded(exec_, model, causal, options, 12);
      EncodeOptions through = options;
      through.padded = &padded;
      const std::vector<std::vector<std::int64_t>> batches{
          {5, 0, 12, 1},                     // the first bucket
          std::vector<std::int64_t>(30, 9),  // the third, sequences of one length
          {13},                              // a text too long: called
          std::vector<std::int64_t>(20, 2),  // too many texts for their rows: called
          {7, 3}};
      for (int round = 0; round < 3; ++round)
        for (const auto& lengths : batches) {
          const Texts texts(model.config(), lengths);
          const Encoded expected =
              encode_ids(exec_, model, texts.ids, texts.offsets, causal, options);
          const Encoded got = encode_ids(exec_, model, texts.ids, texts.offsets, causal, through);
          for (std::size_t s = 0; s < options.strategies.size(); ++s)
            EXPECT_TRUE(same(expected.hidden[s], got.hidden[s]))
                << options.strategies[s] << " of " << lengths.size() << " texts, round " << round;
          EXPECT_TRUE(same(expected.pooled, got.pooled)) << lengths.size() << " texts";
        }
    }
}

// On a device that is not there: memory that the host cannot read, and CUDA's rules of recordings.
TEST_P(PaddedPassesTest, AreRecordedByTheRulesOfADevice) {
  Exec exec(counted_device, 1);
  const TextModel model = TextModel::load(exec, golden_path(GetParam()), DType::bf16);
  EncodeOptions options{.strategies = {"last", "layer:1", "avg", "norm_avg"}, .pooled = true};
  PaddedPasses padded(exec, model, true, options, 12);
  options.padded = &padded;
  const Texts texts(model.config(), std::vector<std::int64_t>{5, 0, 12, 1});
  for (int round = 0; round < 4; ++round)
    encode_ids(exec, model, texts.ids, texts.offsets, true, options);
  EXPECT_EQ(padded.recordings(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Encoders, PaddedPassesTest,
                         testing::Values("encoders/clip", "encoders/clip_projected",
                                         "encoders/gemma2", "encoders/llama3", "encoders/mistral",
                                         "encoders/qwen2", "encoders/t5", "llama"));

// As cache text does it on a device: what was encoded is there when the next batch is, padded or
// not.
TEST(PaddedPassesInTurn, ABatchIsThereBehindTheNextOne) {
  Exec exec(host_device, 1);
  const TextModel model = TextModel::load(exec, golden_path("encoders/clip_projected"), DType::f32);
  EncodeOptions options{.strategies = {"last", "avg"}, .pooled = true};
  PaddedPasses padded(exec, model, true, options, 12);
  EncodeOptions through = options;
  through.padded = &padded;
  through.may_be_under_way = true;
  // 13 tokens do not fit, and a batch without any is no pass.
  const std::vector<std::vector<std::int64_t>> batches{{5, 1}, {7}, {13}, {2, 2}, {0, 0}, {3}, {4}};
  Encoded before;
  for (std::size_t i = 0; i <= batches.size(); ++i) {
    Encoded next;
    if (i < batches.size()) {
      const Texts texts(model.config(), batches[i]);
      next = encode_ids(exec, model, texts.ids, texts.offsets, true, through);
    } else {
      padded.finish();
    }
    if (i > 0) {
      SCOPED_TRACE(i - 1);
      const Texts texts(model.config(), batches[i - 1]);
      const Encoded expected = encode_ids(exec, model, texts.ids, texts.offsets, true, options);
      for (std::size_t s = 0; s < options.strategies.size(); ++s)
        EXPECT_TRUE(same(expected.hidden[s], before.hidden[s])) << options.strategies[s];
      EXPECT_TRUE(same(expected.pooled, before.pooled));
    }
    before = std::move(next);
  }
}

class Room : public testing::Test {
 protected:
  Exec exec_{host_device, 1};
  TextModel model_ = TextModel::load(exec_, golden_path("encoders/clip"), DType::f32);
  EncodeOptions options_{.strategies = {"last"}, .batch_tokens = 2048};

  bool holds(std::int64_t longest, const std::vector<std::int64_t>& lengths) {
    const PaddedPasses padded(exec_, model_, true, options_, longest);
    Texts texts(model_.config(), lengths);
    const std::vector<std::int64_t> ids(texts.ids.begin(), texts.ids.end());
    return padded.hold({view_of(ids.data(), {std::ssize(ids)}),
                        view_of(texts.offsets.data(), {std::ssize(texts.offsets)})});
  }
};

TEST_F(Room, IsWhatBucketsAndLongestTextSay) {
  EXPECT_TRUE(holds(64, {64, 1}));
  EXPECT_FALSE(holds(64, {65}));
  EXPECT_TRUE(holds(4096, {2048}));
  EXPECT_FALSE(holds(4096, {2049}));
  EXPECT_TRUE(holds(64, std::vector<std::int64_t>(32, 8))) << "256 rows have room for 32 texts";
  EXPECT_FALSE(holds(64, std::vector<std::int64_t>(33, 7)));
  EXPECT_TRUE(holds(64, std::vector<std::int64_t>(256, 8)));
}

TEST_F(Room, WrongTextsAreRefused) {
  PaddedPasses padded(exec_, model_, true, options_, 1000);
  const TextConfig& config = model_.config();
  EncodeOptions through = options_;
  through.padded = &padded;
  Texts unknown(config, std::vector<std::int64_t>{4});
  unknown.ids[2] = static_cast<std::int32_t>(config.vocabulary);
  EXPECT_THROW(encode_ids(exec_, model_, unknown.ids, unknown.offsets, true, through), Error);
  const Texts endless(config, std::vector<std::int64_t>{config.positions + 1});
  EXPECT_THROW(encode_ids(exec_, model_, endless.ids, endless.offsets, true, through), Error);
}

}  // namespace
}  // namespace strata
