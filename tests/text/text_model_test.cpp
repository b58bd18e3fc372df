// Every family of text models against transformers' hidden states.

#include "model/text_model.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "golden.hpp"
#include "tests/compare.hpp"
#include "text/encoder_reference.hpp"
#include "text/text_encoder.hpp"

namespace strata {
namespace {

using test::relative_l2;

namespace fs = std::filesystem;

constexpr double fp32_tolerance = 2e-5;

std::string model_path(const std::string& name) {
  return golden_path("encoders/" + name);
}

/// The golden's token ids through a model.
struct Example {
  explicit Example(const std::string& name)
      : golden(model_path(name) + "/states.safetensors"),
        id_buffer(golden.read_i64("input_ids")),
        offset_buffer(golden.read_i64("offsets")) {
    const auto* id = id_buffer.as<std::int64_t>();
    ids.assign(id, id + id_buffer.tensor().numel());
    const auto* at = offset_buffer.as<std::int64_t>();
    offsets.assign(at, at + offset_buffer.tensor().numel());
  }
  Encoded encode(Exec& exec, const TextModel& model, bool causal) const {
    EncodeOptions options;
    options.pooled = options.all_layers = true;
    options.strategies = {"last", "layer:1", "avg"};
    return encode_ids(exec, model, ids, offsets, causal, options);
  }

  SafetensorsFile golden;
  Buffer id_buffer, offset_buffer;
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
};

class TextModels : public ::testing::TestWithParam<const char*> {
 protected:
  TextModel load(DType compute = DType::f32) {
    return TextModel::load(exec_, model_path(GetParam()), compute);
  }
  Exec exec_;
  Example example_{GetParam()};
  EncoderReference reference_{model_path(GetParam()) + "/states.safetensors"};
};

INSTANTIATE_TEST_SUITE_P(, TextModels,
                         ::testing::Values("llama3", "mistral", "qwen2", "gemma2", "t5", "t5_relu",
                                           "clip", "clip_projected"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(TextModels, GiveEveryLayerOfTransformers) {
  const TextModel model = load();
  const auto found = compare_layers(exec_, model, reference_, model.config().causal);
  for (std::size_t k = 0; k < found.by_layer.size(); ++k)
    EXPECT_LE(found.by_layer[k], fp32_tolerance) << "state " << k;
}

TEST_P(TextModels, AreAsExactInBfloat16AsTransformers) {
  const TextModel model = load(DType::bf16);
  const auto found = compare_layers(exec_, model, reference_, model.config().causal);
  const Buffer theirs = example_.golden.read_f32("bf16_error");
  for (std::size_t k = 0; k < found.by_layer.size(); ++k)
    EXPECT_LE(found.by_layer[k], 2 * theirs.as<float>()[k] + 1e-6) << "state " << k;
}

TEST_P(TextModels, PoolTheLastTokenOrTheEndOfText) {
  const TextModel model = load();
  const Encoded encoded = example_.encode(exec_, model, model.config().causal);
  const std::int64_t count = std::ssize(example_.offsets) - 1, width = model.pooled_width();
  ASSERT_EQ(encoded.pooled.tensor().shape, (Shape{count, width}));
  Buffer want(DType::f32, {count, width});
  const bool clip = example_.golden.contains("pooled");
  const Buffer theirs =
      clip ? example_.golden.read_f32("pooled") : Buffer(DType::f32, Shape{0, width});
  const std::int64_t plane = std::ssize(example_.ids) * width;
  const float* last = encoded.layers.as<float>() + model.config().layers * plane;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = example_.offsets[i], end = example_.offsets[i + 1];
    float* row = want.as<float>() + i * width;
    if (begin == end)
      std::fill_n(row, width, 0.0f);
    else
      std::copy_n(clip ? theirs.as<float>() + i * width : last + (end - 1) * width, width, row);
  }
  EXPECT_LE(relative_l2(encoded.pooled, want), clip ? fp32_tolerance : 0.0);
}

TEST_P(TextModels, TextsDoNotFeelTheirNeighbours) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const TextModel model = load(compute);
    const bool causal = model.config().causal;
    const Encoded together = example_.encode(exec_, model, causal);
    const std::int64_t tokens = std::ssize(example_.ids), width = model.config().width;
    for (std::size_t i = 0; i + 1 < example_.offsets.size(); ++i) {
      const std::int64_t begin = example_.offsets[i], own = example_.offsets[i + 1] - begin;
      const std::vector<std::int64_t> alone_offsets{0, own};
      EncodeOptions options;
      options.pooled = options.all_layers = true;
      const Encoded alone =
          encode_ids(exec_, model,
                     std::span(example_.ids)
                         .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(own)),
                     alone_offsets, causal, options);
      const auto row_bytes = static_cast<std::size_t>(width) * 4;
      for (std::int64_t k = 0; k <= model.config().layers; ++k)
        EXPECT_EQ(std::memcmp(alone.layers.as<float>() + k * own * width,
                              together.layers.as<float>() + (k * tokens + begin) * width,
                              static_cast<std::size_t>(own) * row_bytes),
                  0)
            << "text " << i << " state " << k << " " << name_of(compute);
      EXPECT_EQ(std::memcmp(alone.pooled.as<float>(),
                            together.pooled.as<float>() + std::int64_t(i) * model.pooled_width(),
                            static_cast<std::size_t>(model.pooled_width()) * 4),
                0);
    }
  }
}

TEST(TextModelAttention, SeesBothSidesThroughItsWindows) {
  Exec exec;
  const Example example("qwen2");
  const TextModel model = TextModel::load(exec, model_path("qwen2"), DType::f32);
  const Encoded encoded = example.encode(exec, model, false);
  EXPECT_LE(relative_l2(encoded.hidden[0], example.golden.read_f32("bidirectional_last")),
            fp32_tolerance);
}

/// A copy of a golden model whose files a test changes.
class ChangedModel : public ::testing::Test {
 protected:
  ~ChangedModel() override { fs::remove_all(dir_); }
  void take(const std::string& name) {
    fs::remove_all(dir_);
    fs::copy(model_path(name), dir_, fs::copy_options::recursive);
    config_ = nlohmann::json::parse(read_file(dir_ + "/config.json"));
  }
  TextModel load() {
    std::ofstream(dir_ + "/config.json") << config_.dump();
    return TextModel::load(exec_, dir_, DType::f32);
  }
  std::string refusal() {
    try {
      load();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
      return error.what();
    }
    return "accepted";
  }
  Exec exec_;
  std::string dir_ = ::testing::TempDir() + "/text-model-" + std::to_string(::getpid());
  nlohmann::json config_;
};

// A golden that a key does not change would not see it forgotten.
TEST_F(ChangedModel, EveryKeyThatChangesTheArithmeticIsHonoured) {
  using Json = nlohmann::json;
  const Json unscaled{{"rope_type", "default"}, {"rope_theta", 500.0}};
  const Json full{"full_attention", "full_attention", "full_attention", "full_attention"};
  const std::tuple<const char*, const char*, Json> changes[] = {
      {"llama3", "rope_parameters", unscaled},
      {"llama3", "hidden_act", "gelu"},
      {"llama3", "rms_norm_eps", 0.1},
      {"mistral", "sliding_window", nullptr},
      {"mistral", "sliding_window", 6},
      {"mistral", "rope_theta", 100.0},
      {"mistral", "head_dim", nullptr},  // the same: heads * head width is the width
      {"qwen2", "use_sliding_window", false},
      {"qwen2", "is_causal", false},
      {"gemma2", "attn_logit_softcapping", nullptr},
      {"gemma2", "attn_logit_softcapping", 50.0},
      {"gemma2", "query_pre_attn_scalar", 12},
      {"gemma2", "sliding_window", 7},
      {"gemma2", "layer_types", full},
      {"t5", "relative_attention_max_distance", 64},
      {"t5", "feed_forward_proj", "gated-silu"},
      {"t5_relu", "feed_forward_proj", "gelu"},
      {"clip", "hidden_act", "gelu"},
      {"clip", "layer_norm_eps", 0.1}};
  for (const auto& [name, key, value] : changes) {
    take(name);
    for (const char* derived : {"use_sliding_window", "feed_forward_proj"})
      if (std::string(key) == derived)
        for (const char* other : {"layer_types", "dense_act_fn", "is_gated_act"})
          config_.erase(other);
    config_[key] = value;
    if (std::string(key) == "use_sliding_window") config_["sliding_window"] = nullptr;
    const TextModel model = load();
    const EncoderReference reference(model_path(name) + "/states.safetensors");
    const double found = compare_layers(exec_, model, reference, model.config().causal).largest;
    if (std::string(key) == "head_dim")
      EXPECT_LE(found, fp32_tolerance) << name << ": " << key;
    else
      EXPECT_GT(found, 1e-3) << name << ": " << key << " = " << value.dump();
  }
}

TEST_F(ChangedModel, UnsupportedValuesAreRefusedByKey) {
  using Json = nlohmann::json;
  const std::tuple<const char*, const char*, Json> changes[] = {
      {"mistral", "attention_bias", true},
      {"mistral", "sliding_window", 0},
      {"mistral", "num_key_value_heads", nullptr},
      {"mistral", "layer_types", Json{"full_attention", "full_attention", "full_attention"}},
      {"mistral", "rope_theta", nullptr},
      {"mistral", "partial_rotary_factor", 0.5},
      {"mistral", "rope_scaling", Json{{"rope_type", "yarn"}, {"factor", 4.0}}},
      {"llama3", "layer_types", Json{"sliding_attention", "full_attention", "full_attention"}},
      {"llama3", "rope_parameters", Json{{"rope_type", "llama3"}, {"rope_theta", 1e4}}},
      {"qwen2", "layer_types", Json{"full_attention"}},
      {"qwen2", "layer_types", Json{"full_attention", "linear_attention", "full_attention"}},
      {"qwen2", "use_mrope", true},
      {"gemma2", "head_dim", nullptr},
      {"gemma2", "hidden_activation", "tanh"},
      {"gemma2", "use_bidirectional_attention", true},
      {"gemma2", "query_pre_attn_scalar", 0},
      {"gemma2", "attn_logit_softcapping", -1.0},
      {"t5", "is_decoder", true},
      {"t5", "d_kv", nullptr},
      {"t5", "feed_forward_proj", "gated-tanh"},
      {"t5", "dense_act_fn", "relu"},
      {"t5", "is_gated_act", false},
      {"t5", "relative_attention_num_buckets", 30},
      {"t5", "model_type", "umt5"},
      {"clip", "hidden_act", "tanh"},
      {"clip", "num_attention_heads", 5},
      {"clip", "quantization_config", Json::object()}};
  for (const auto& [name, key, value] : changes) {
    take(name);
    config_[key] = value;
    const std::string text = refusal();
    EXPECT_NE(text.find(key), std::string::npos) << name << ": " << value.dump() << ": " << text;
  }
}

TEST_F(ChangedModel, TensorsMustFitTheConfig) {
  const std::tuple<const char*, const char*, int> changes[] = {
      {"gemma2", "num_hidden_layers", 3},
      {"gemma2", "head_dim", 10},
      {"t5", "relative_attention_num_buckets", 16},
      {"t5", "num_layers", 4},
      {"clip", "max_position_embeddings", 41},
      {"clip_projected", "projection_dim", 21},
      {"mistral", "vocab_size", 130}};
  for (const auto& [name, key, value] : changes) {
    take(name);
    config_[key] = value;
    EXPECT_NE(refusal().find("tensor "), std::string::npos) << name << ": " << key;
  }
  take("mistral");
  fs::resize_file(dir_ + "/model-00002-of-00003.safetensors", 20000);
  EXPECT_NE(refusal().find("model-00002"), std::string::npos);
}

/// The folder's weights again as one file: names changed, tensors added in front.
void rewrite(const std::string& dir, const std::vector<std::string>& added,
             const std::function<std::string(std::string)>& rename) {
  const SafetensorsFolder folder(dir, "model");
  SafetensorsWriter writer;
  const Buffer one = Buffer::zeros(DType::bf16, {1});  // two bytes: f32 after it is not aligned
  for (const std::string& name : added) writer.add(name, one.tensor());
  for (const std::string& name : folder.names()) writer.add(rename(name), folder.view(name));
  writer.write(dir + "/rewritten");
  fs::rename(dir + "/rewritten", dir + "/model.safetensors");
}

TEST_F(ChangedModel, PrefixesAndSurplusTensorsDoNotMatter) {
  const auto without = [](std::string prefix) {
    return [prefix](std::string name) {
      return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
    };
  };
  const auto with = [](std::string prefix) {
    return [prefix](std::string name) { return prefix + name; };
  };
  const auto same = [](std::string name) { return name; };
  const std::tuple<const char*, std::vector<std::string>, std::function<std::string(std::string)>>
      changes[] = {
          {"clip", {"logit_scale"}, without("text_model.")},
          {"clip", {"vision_model.x", "text_model.embeddings.position_ids"}, same},
          {"clip_projected", {"visual_projection.weight"}, without("text_model.")},
          {"mistral", {"lm_head.weight"}, without("model.")},
          {"qwen2", {"lm_head.weight"}, same},
          {"qwen2", {"lm_head.weight"}, with("model.")},
          {"t5", {"decoder.block.0.x", "lm_head.weight", "encoder.embed_tokens.weight"}, same},
          {"t5_relu", {}, with("encoder.")}};
  for (const auto& [name, added, rename] : changes) {
    take(name);
    rewrite(dir_, added, rename);
    const TextModel model = load();
    const EncoderReference reference(model_path(name) + "/states.safetensors");
    EXPECT_LE(compare_layers(exec_, model, reference, model.config().causal).largest,
              fp32_tolerance)
        << name;
  }
  const std::pair<const char*, const char*> unknown[] = {
      {"mistral", "model.layers.0.self_attn.q_norm.weight"},
      {"gemma2", "model.layers.9.mlp.up_proj.weight"},
      {"t5", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"},
      {"clip", "text_model.extra"}};
  for (const auto& [name, tensor] : unknown) {
    take(name);
    rewrite(dir_, {tensor}, same);
    EXPECT_NE(refusal().find(tensor), std::string::npos) << name;
  }
}

TEST_F(ChangedModel, TextsLongerThanThePositionsAreRefused) {
  take("clip");
  const TextModel model = load();
  const std::vector<std::int32_t> ids(41, 5);
  const std::vector<std::int64_t> offsets{0, 41};
  EXPECT_THROW(encode_ids(exec_, model, ids, offsets, true, {}), Error);
}

TEST(EncoderReferences, MustFitThemselvesAndTheModel) {
  Exec exec;
  const std::string path = ::testing::TempDir() + "/reference-" + std::to_string(::getpid());
  std::int64_t ids[] = {3, 4, 5}, offsets[] = {0, 1, 3}, wrong[] = {0, 2, 1, 3};
  Buffer layers = Buffer::zeros(DType::f32, {4, 3, 48}),
         few = Buffer::zeros(DType::f32, {4, 2, 48});
  const auto refused = [&](Tensor id, Tensor at, Tensor states) {
    SafetensorsWriter writer;
    writer.add("input_ids", id);
    writer.add("offsets", at);
    writer.add("layers", states);
    writer.write(path);
    try {
      const EncoderReference reference(path);
      const TextModel model = TextModel::load(exec, model_path("mistral"), DType::f32);
      compare_layers(exec, model, reference, true);
    } catch (const Error& error) {
      return error.code() == Exit::data;
    }
    return false;
  };
  const Tensor id = view_of(ids, {3}), at = view_of(offsets, {3});
  EXPECT_FALSE(refused(id, at, layers));
  EXPECT_TRUE(refused(id, view_of(wrong, {4}), layers));
  EXPECT_TRUE(refused(id, view_of(offsets, {2}), layers));
  EXPECT_TRUE(refused(id, at, few));
  EXPECT_TRUE(refused(id, at, layers.tensor().rows(0, 3)));
  ids[1] = -1;
  EXPECT_TRUE(refused(id, at, layers));
  ids[1] = 131;
  EXPECT_TRUE(refused(id, at, layers));
  fs::remove(path);
}

}  // namespace
}  // namespace strata
