// The Llama-layout decoder and the strategies against transformers' hidden states.

#include "text/text_encoder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "golden.hpp"
#include "tests/compare.hpp"

namespace strata {
namespace {

using test::relative_l2;

constexpr double fp32_tolerance = 2e-5;

class TextEncoderTest : public ::testing::Test {
 protected:
  TextEncoder load(DType compute = DType::f32) {
    return TextEncoder::load(exec_, golden_path("llama"), compute);
  }
  Exec exec_;
  std::vector<std::string> captions_ = read_text_lines(golden_path("llama/captions.txt"));
  SafetensorsFile golden_{golden_path("llama/states.safetensors")};
};

TEST_F(TextEncoderTest, GivesEveryLayerAndStrategyOfTransformers) {
  EncodeOptions options;
  options.strategies = {"last", "layer:0", "layer:2", "layer:-2", "avg", "norm_avg"};
  options.pooled = options.all_layers = true;
  const Encoded encoded = load().encode(exec_, captions_, options);
  const Buffer ids = golden_.read_i64("input_ids"), offsets = golden_.read_i64("offsets");
  ASSERT_EQ(encoded.ids.tensor().shape, ids.tensor().shape);
  EXPECT_EQ(std::memcmp(encoded.ids.tensor().data, ids.tensor().data, ids.tensor().bytes()), 0);
  EXPECT_EQ(
      std::memcmp(encoded.offsets.tensor().data, offsets.tensor().data, offsets.tensor().bytes()),
      0);

  const Buffer layers = golden_.read_f32("layers");
  const std::int64_t states = layers.tensor().shape[0], plane = layers.tensor().numel() / states;
  for (std::int64_t k = 0; k < states; ++k)
    EXPECT_LT(relative_l2(encoded.layers.tensor().rows(k, k + 1), layers.tensor().rows(k, k + 1)),
              fp32_tolerance)
        << "state " << k;
  const std::pair<int, std::int64_t> single[] = {{0, 4}, {1, 0}, {2, 2}, {3, 3}};
  for (const auto& [strategy, k] : single)
    EXPECT_EQ(
        std::memcmp(encoded.hidden[strategy].as<float>(), encoded.layers.as<float>() + k * plane,
                    static_cast<std::size_t>(plane) * 4),
        0)
        << options.strategies[strategy];
  EXPECT_LT(relative_l2(encoded.hidden[4], golden_.read_f32("avg")), fp32_tolerance);
  EXPECT_LT(relative_l2(encoded.hidden[5], golden_.read_f32("norm_avg")), fp32_tolerance);
  EXPECT_LT(relative_l2(encoded.pooled, golden_.read_f32("pooled")), fp32_tolerance);
}

TEST_F(TextEncoderTest, SeesBothSidesWhenAsked) {
  EncodeOptions options;
  options.attention = AttentionMode::bidirectional;
  const Encoded encoded = load().encode(exec_, captions_, options);
  EXPECT_LT(relative_l2(encoded.hidden[0], golden_.read_f32("bidirectional_last")), fp32_tolerance);
}

TEST_F(TextEncoderTest, IsAsExactInBfloat16AsTransformers) {
  EncodeOptions options;
  options.all_layers = true;
  const Encoded encoded = load(DType::bf16).encode(exec_, captions_, options);
  const Buffer layers = golden_.read_f32("layers"), theirs = golden_.read_f32("bf16_error");
  const std::int64_t states = layers.tensor().shape[0];
  for (std::int64_t k = 0; k < states; ++k)
    EXPECT_LE(relative_l2(encoded.layers.tensor().rows(k, k + 1), layers.tensor().rows(k, k + 1)),
              2 * theirs.as<float>()[k] + 1e-6)
        << "state " << k;
}

TEST_F(TextEncoderTest, CaptionsDoNotFeelTheirNeighbours) {
  EncodeOptions options;
  options.strategies = {"last", "norm_avg", "avg"};
  options.pooled = true;
  // Over 2048 tokens in all, so that the batch is cut, too; some captions longer than a token
  // block.
  std::vector<std::string> many;
  for (int i = 0; i < 60; ++i)
    for (const std::string& caption : captions_) many.push_back(caption + std::string(i % 7, '!'));
  many.push_back(std::string());
  for (int i = 0; i < 100; ++i) many.back() += captions_[3];
  for (const DType compute : {DType::f32, DType::bf16}) {
    const TextEncoder encoder = load(compute);
    const Encoded together = encoder.encode(exec_, many, options);
    const auto* at = together.offsets.as<std::int64_t>();
    const std::int64_t width = encoder.width();
    for (std::size_t i = 0; i < many.size(); i += i < 12 ? 1 : 29) {
      const Encoded alone = encoder.encode(exec_, std::span(&many[i], 1), options);
      for (std::size_t s = 0; s < options.strategies.size(); ++s) {
        ASSERT_EQ(alone.hidden[s].tensor().shape[0], at[i + 1] - at[i]);
        EXPECT_EQ(
            std::memcmp(alone.hidden[s].as<float>(), together.hidden[s].as<float>() + at[i] * width,
                        alone.hidden[s].tensor().bytes()),
            0)
            << "caption " << i << ", " << options.strategies[s] << ", " << name_of(compute);
      }
      EXPECT_EQ(std::memcmp(alone.pooled.as<float>(), together.pooled.as<float>() + i * width,
                            static_cast<std::size_t>(width) * 4),
                0);
    }
  }
}

TEST_F(TextEncoderTest, StreamsLayersToTheSameBytes) {
  EncodeOptions options;
  options.strategies = {"last", "layer:1", "avg", "norm_avg"};
  options.pooled = options.all_layers = true;
  std::vector<std::int64_t> states;
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Encoded whole = load(compute).encode(exec_, captions_, options);
    EncodeOptions of_stream = options;
    of_stream.batch_tokens = 20;  // several batches a layer
    of_stream.after_state = [&](std::int64_t k) { states.push_back(k); };
    const TextEncoder streaming =
        TextEncoder::load(exec_, golden_path("llama"), compute, "auto", true);
    const Encoded streamed = streaming.encode(exec_, captions_, of_stream);
    const auto expect_same = [&](const Buffer& a, const Buffer& b) {
      ASSERT_EQ(a.tensor().shape, b.tensor().shape);
      EXPECT_EQ(std::memcmp(a.tensor().data, b.tensor().data, a.tensor().bytes()), 0);
    };
    for (std::size_t s = 0; s < options.strategies.size(); ++s)
      expect_same(whole.hidden[s], streamed.hidden[s]);
    expect_same(whole.pooled, streamed.pooled);
    expect_same(whole.layers, streamed.layers);
  }
  EXPECT_EQ(states, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
}

TEST(BatchOrder, FillsBatchesToTheBrim) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 1000; ++i) lengths.push_back(i % 97 == 0 ? 0 : 5 + i * 37 % 196);
  lengths.push_back(5000);  // longer than a batch
  const std::vector<std::int64_t> order = batch_order(lengths);
  std::vector<std::int64_t> sorted = order, offsets{0};
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], static_cast<int>(i));
  for (const std::int64_t caption : order) offsets.push_back(offsets.back() + lengths[caption]);
  std::int64_t batches = 0;
  const auto count = static_cast<std::int64_t>(order.size());
  for (std::int64_t first = 0, last = 0; first < count; first = last, ++batches) {
    last = end_of_batch(offsets, first);
    const std::int64_t tokens = offsets[last] - offsets[first];
    if (first == 0) {  // the long one alone
      EXPECT_EQ(last, 1);
      continue;
    }
    EXPECT_LE(tokens, batch_tokens);
    // Less room is left than the shortest caption needs, but in the last batch.
    EXPECT_TRUE(tokens > batch_tokens - 5 || last == count) << tokens;
  }
  EXPECT_EQ(batches, 1 + (offsets.back() - 5000 + batch_tokens - 1) / batch_tokens);
  EXPECT_TRUE(batch_order({}).empty());
}

TEST_F(TextEncoderTest, GivesCaptionsWithoutIdsAnEmptyRange) {
  const TextEncoder encoder = load();
  EncodeOptions options;
  options.pooled = options.all_layers = true;
  options.strategies = {"last", "avg"};
  const std::vector<std::int32_t> ids{5, 6};
  const std::vector<std::int64_t> offsets{0, 0, 2, 2};
  const Encoded encoded = encoder.encode_ids(exec_, ids, offsets, options);
  const float* pooled = encoded.pooled.as<float>();
  const std::int64_t width = encoder.width();
  for (std::int64_t i = 0; i < width; ++i) {
    EXPECT_EQ(pooled[i], 0.0f);
    EXPECT_EQ(pooled[2 * width + i], 0.0f);
    EXPECT_EQ(pooled[width + i], encoded.hidden[0].as<float>()[width + i]);
  }
  const std::vector<std::int64_t> nothing{0, 0};
  const Encoded empty = encoder.encode_ids(exec_, {}, nothing, options);
  EXPECT_EQ(empty.hidden[1].tensor().shape, (Shape{0, width}));
  const std::vector<std::int32_t> outside{5, 1 << 20};
  const std::vector<std::int64_t> two{0, 2};
  EXPECT_THROW(encoder.encode_ids(exec_, outside, two, options), Error);
}

TEST_F(TextEncoderTest, ReadsTheMiniatureEncoder) {
  const TextEncoder encoder =
      TextEncoder::load(exec_, std::string(STRATA_SOURCE_DIR) + "/data/miniature/encoder");
  const std::vector<std::string> captions{"a red circle"};
  const Encoded encoded = encoder.encode(exec_, captions, {});
  EXPECT_GT(encoded.ids.tensor().numel(), 2);
}

TEST(Strategies, ParseOrAreRefused) {
  EXPECT_EQ(Strategy::parse("last").state_of(4), 4);
  EXPECT_EQ(Strategy::parse("layer:0").state_of(4), 0);
  EXPECT_EQ(Strategy::parse("layer:-2").state_of(4), 3);
  EXPECT_EQ(Strategy::parse("layer:-5").state_of(4), 0);
  EXPECT_THROW(Strategy::parse("layer:-6").state_of(4), Error);
  EXPECT_THROW(Strategy::parse("layer:5").state_of(4), Error);
  for (const char* text : {"", "first", "layer:", "layer:x", "layer:1x", "layer:1.0", "Last",
                           "layer:99999999999999999999"})
    EXPECT_THROW(Strategy::parse(text), Error) << text;
  EXPECT_EQ(parse_strategies("last,layer:-2,avg"),
            (std::vector<std::string>{"last", "layer:-2", "avg"}));
  for (const char* list : {"", ",", "last,", "last,last", ",avg"})
    EXPECT_THROW(parse_strategies(list), Error) << list;
  EXPECT_EQ(folder_of_strategy("layer:-2"), "layer_-2");
}

/// A copy of the golden model whose files a test changes.
class BrokenDecoder : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/decoder-" + std::to_string(::getpid());
    std::filesystem::create_directories(dir_);
    std::filesystem::copy(golden_path("llama"), dir_, std::filesystem::copy_options::recursive);
    config_ = nlohmann::json::parse(read_file(dir_ + "/config.json"));
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string refusal() {
    std::ofstream(dir_ + "/config.json") << config_.dump();
    try {
      TextModel::load(exec_, dir_, DType::f32);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
      return error.what();
    }
    return "accepted";
  }
  Exec exec_;
  std::string dir_;
  nlohmann::json config_;
};

TEST_F(BrokenDecoder, NamesTheKeyOrTensor) {
  EXPECT_EQ(refusal(), "accepted");
  const nlohmann::json good = config_;
  const std::pair<const char*, nlohmann::json> changes[] = {
      {"model_type", "gpt_neox"},
      {"model_type", nullptr},
      {"hidden_size", 0},
      {"hidden_size", -48},
      {"hidden_size", 48.5},
      {"num_hidden_layers", nullptr},
      {"num_attention_heads", "6"},
      {"num_key_value_heads", 4},
      {"head_dim", 15},
      {"hidden_act", "tanh"},
      {"rope_parameters", nullptr},
      {"rms_norm_eps", -1},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1.0}}},
      {"rope_parameters", {{"rope_theta", 0}}},
      {"attention_bias", 1},
      {"quantization_config", nlohmann::json::object()},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"vocab_size", 1ull << 40}};
  for (const auto& [key, value] : changes) {
    config_ = good;
    config_[key] = value;
    const std::string text = refusal();
    const std::string named = std::string(key) == "rope_parameters" ? "rope_" : key;
    EXPECT_NE(text.find(named), std::string::npos) << key << " = " << value.dump() << ": " << text;
  }
  // A config of another size than the weights; a layer too few (tensors left over), one too many.
  for (const auto& [key, value] : {std::pair{"intermediate_size", 111},
                                   {"num_hidden_layers", 3},
                                   {"num_hidden_layers", 5},
                                   {"vocab_size", 3},
                                   {"num_key_value_heads", 3}}) {
    config_ = good;
    config_[key] = value;
    EXPECT_NE(refusal().find("tensor model."), std::string::npos) << key;
  }
  config_ = good;
  config_["attention_bias"] = true;
  EXPECT_NE(refusal().find("_proj.bias"), std::string::npos);
  config_ = good;
  std::filesystem::remove(dir_ + "/model.safetensors");
  std::ofstream(dir_ + "/pytorch_model.bin") << "x";
  EXPECT_NE(refusal().find("pickle"), std::string::npos);
}

}  // namespace
}  // namespace strata
