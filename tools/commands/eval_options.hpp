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

inline DType eval_precision(const Options& options) {
  const std::string& name = options.text("precision");
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail(Exit::usage, "--precision {}: fp32 or bf16", name);
}

inline Device eval_device(const Options& options) {
  const std::string& name = options.text("device");
  if (name == "host") return host_device;
  if (name == "cuda") return {DeviceKind::cuda, 0};
  fail(Exit::usage, "--device {}: host or cuda", name);
}

}  // namespace strata::commands
