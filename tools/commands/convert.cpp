// `strata convert`: checkpoint <-> diffusers folder.

#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "evaluate/export_pipeline.hpp"

namespace strata::commands {

namespace {

DType parse_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "f16") return DType::f16;
  fail(Exit::usage, "--dtype {}: neither f32, bf16 nor f16", name);
}

}  // namespace

int convert(const Arguments& arguments, Communicator& world) {
  namespace po = boost::program_options;
  Options options(
      "convert --to diffusers|checkpoint --from DIR --out DIR",
      "To diffusers: a checkpoint becomes a folder that diffusers opens: unet/ and "
      "scheduler/, and with\n--vae and --encoder the other parts of a pipeline. To "
      "checkpoint: a diffusers U-Net becomes\nOUT/step-00000000, which sample and inspect "
      "read.",
      "strata convert --to diffusers --from run/checkpoints/step-00001000 --out exported");
  options.add()("to", po::value<std::string>(), "diffusers | checkpoint")(
      "from", po::value<std::string>(),
      "checkpoint or run folder; or a diffusers U-Net or pipeline folder")(
      "out", po::value<std::string>(), "folder to make")(
      "weights", po::value<std::string>()->default_value("auto"), "auto | master | ema")(
      "dtype", po::value<std::string>(),
      "f32 | bf16 | f16, to diffusers (default: as in the folder that the weights came from, else "
      "f32)")("vae", po::value<std::string>(), "VAE folder to copy into the pipeline")(
      "encoder", po::value<std::string>(), "text encoder and tokenizer folder to copy into it");
  if (!options.parse(arguments)) return 0;
  const std::string& to = options.text("to");
  const std::string &from = options.text("from"), &out = options.text("out");
  if (to == "diffusers") {
    PipelineExport pipeline{.out = out};
    if (options.has("dtype")) pipeline.dtype = parse_dtype(options.text("dtype"));
    if (options.has("vae")) pipeline.vae = options.text("vae");
    if (options.has("encoder")) pipeline.encoder = options.text("encoder");
    const auto denoiser = load_denoiser(from, DType::f32, weight_kind(options.text("weights")));
    export_pipeline(denoiser, pipeline);
    log::info("{}: unet/ and scheduler/ of {}", out, from);
    return 0;
  }
  if (to != "checkpoint") fail(Exit::usage, "--to {}: neither diffusers nor checkpoint", to);
  const auto denoiser = load_denoiser(from, DType::f32, weight_kind(options.text("weights")));
  log::info("{}", export_checkpoint(world, denoiser, out));
  return 0;
}

}  // namespace strata::commands
