#pragma once
// What the modules of `strata eval` have in common on the command line.

#include "commands/options.hpp"
#include "core/exec.hpp"

namespace strata::commands {

inline void add_eval_options(Options& options, const char* model, const char* input,
                             const char* output) {
  namespace po = boost::program_options;
  options.add()("model", po::value<std::string>(), model)("input", po::value<std::string>(), input)(
      "output", po::value<std::string>(), output)(
      "precision", po::value<std::string>()->default_value("fp32"), "fp32 or bf16")(
      "device", po::value<std::string>()->default_value("host"), "host or cuda");
}

/// What the commands that encode text have in common.
inline void add_encoder_options(Options& options) {
  namespace po = boost::program_options;
  options.add()("max-tokens", po::value<std::size_t>(),
                "special tokens stay, the caption's own ids are cut at the end (default 77 for "
                "CLIP, 256 for the others)")(
      "attention", po::value<std::string>()->default_value("auto"),
      "auto (the preset's, else the model's own), causal or bidirectional")(
      "preset", po::value<std::string>()->default_value("auto"),
      "what the folder must be: a file of configs/encoders by name; auto: by the folder's name, "
      "and a mismatch is a warning; none");
}
/// 0: the encoder's default.
inline std::size_t max_tokens_option(const Options& options) {
  if (!options.has("max-tokens")) return 0;
  const auto limit = options.get<std::size_t>("max-tokens");
  if (limit == 0) fail(Exit::usage, "--max-tokens 0: at least 1");
  return limit;
}

inline DType eval_precision(const Options& options) {
  const std::string& name = options.text("precision");
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail(Exit::usage, "--precision {}: fp32 or bf16", name);
}

/// --device for this rank of its machine's ranks. Error(69) where there is none.
inline Device eval_device(const Options& options, int local_rank = 0, int local_size = 1) {
  const std::string& name = options.text("device");
  if (name == "host") return host_device;
  if (name == "cuda") return cuda_device(local_rank, local_size);
  fail(Exit::usage, "--device {}: host or cuda", name);
}

}  // namespace strata::commands
