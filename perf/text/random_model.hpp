#pragma once
// Text models at their real width, one layer of them, with random weights.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "core/safetensors.hpp"
#include "model/text_model.hpp"

namespace strata {

inline constexpr const char* mistral_7b = R"({"model_type": "mistral", "vocab_size": 1000,
  "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1,
  "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": 4096,
  "rope_theta": 10000.0, "rms_norm_eps": 1e-5})";

/// A folder with this config and random bf16 weights, as long as the object lives.
class RandomModel {
 public:
  explicit RandomModel(const char* config)
      : dir_((std::filesystem::temp_directory_path() /
              ("strata-text-bench-" + std::to_string(::getpid())))
                 .string()) {
    std::filesystem::create_directories(dir_);
    std::ofstream(dir_ + "/config.json") << config;
    SafetensorsWriter writer;
    std::minstd_rand engine(17);
    std::uniform_real_distribution<float> uniform(-0.02f, 0.02f);
    for (const auto& [name, shape] :
         text_tensors(TextConfig::from_json_file(dir_ + "/config.json"))) {
      Buffer values(DType::bf16, shape);
      for (std::int64_t i = 0; i < shape.numel(); ++i)
        values.as<bf16>()[i] = to_bf16(uniform(engine));
      writer.add(name, std::move(values));
    }
    writer.write(dir_ + "/model.safetensors");
  }
  ~RandomModel() { std::filesystem::remove_all(dir_); }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
};

}  // namespace strata
