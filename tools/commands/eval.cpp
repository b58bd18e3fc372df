// `strata eval MODULE`: one module on tensors from a file, for parity with any reference.

#include "commands/eval.hpp"

#include <fmt/format.h>

#include <string_view>

#include "core/error.hpp"
#include "core/log.hpp"

namespace strata::commands {

namespace {

struct Module {
  std::string_view name, about;
  int (*run)(const Arguments&);
};

constexpr Module modules[] = {
    {"unet", "the denoiser: prediction, with --grad loss and every gradient", eval_unet},
    {"vae-encode", "images -> mean and log-variance of their latents", eval_vae_encode},
    {"vae-decode", "unscaled latents -> images", eval_vae_decode},
    {"text", "captions -> hidden states of an embedding strategy", eval_text},
    {"encoder", "a text model against hidden states dumped elsewhere", eval_encoder},
    {"generate", "prompts -> the ids that a decoder model goes on with", eval_generate},
    {"scheduler", "model outputs -> a sampler's trajectory", eval_scheduler},
};

void print_usage() {
  fmt::print(
      "usage: strata eval MODULE --model DIR --input IN --output OUT.safetensors "
      "[--precision fp32|bf16] [--device host|cuda]\n\n"
      "Runs one module on tensors from a file. Modules:\n");
  for (const auto& module : modules) fmt::print("  {:<12} {}\n", module.name, module.about);
  fmt::print(
      "\nexample:\n  strata eval unet --model sd2/unet --input in.safetensors "
      "--output out.safetensors --grad\n");
}

}  // namespace

int eval(const Arguments& arguments, Communicator&) {
  log::set_quiet(true);
  if (arguments.empty()) fail(Exit::usage, "eval needs a module (see strata eval --help)");
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h") {
    print_usage();
    return 0;
  }
  for (const auto& module : modules)
    if (module.name == name) return module.run({arguments.begin() + 1, arguments.end()});
  fail(Exit::usage, "eval has no module '{}' (see strata eval --help)", name);
}

}  // namespace strata::commands
