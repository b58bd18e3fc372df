// `strata eval unet`: prediction, loss and gradients of a U-Net; --describe counts it.

#include <fmt/format.h>

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "model/unet_example.hpp"
#include "model/weights.hpp"

namespace strata::commands {

namespace {

constexpr std::int64_t described_tokens = 77;

int describe(const std::string& folder) {
  const auto config = UNetConfig::from_json_file(folder + "/config.json");
  const UNet unet(config);
  const ParameterTable& table = unet.parameters();
  std::int64_t trainable = 0;
  for (ParamId id = 0; id < table.size(); ++id)
    if (table[id].trainable) trainable += table[id].numel();
  const Flops flops = unet.flops(config.sample_height, config.sample_width, described_tokens);
  fmt::print(
      "{{\"parameters\": {}, \"trainable_parameters\": {}, \"tensors\": {}, "
      "\"flops_forward\": {:.0f}, \"flops_training\": {:.0f}, \"sample_size\": [{}, {}], "
      "\"tokens\": {}}}\n",
      table.numel(), trainable, table.size(), flops.forward, flops.forward + flops.backward,
      config.sample_height, config.sample_width, described_tokens);
  return 0;
}

void add_gradient(SafetensorsWriter& writer, const Parameter& parameter, Tensor memory) {
  const std::string name = "grad." + parameter.name;
  if (parameter.layout == ParamLayout::plain)
    return writer.add(name, memory.reshape(parameter.shape));
  Buffer file(DType::f32, parameter.shape);
  export_parameter(parameter, file, memory);
  writer.add(name, std::move(file));
}

void evaluate(const Options& options, const std::string& folder) {
  const std::string& output = options.text("output");
  const DType compute = eval_precision(options);
  Exec exec(eval_device(options));
  const bool with_gradients = options.flag("grad");
  const UNet unet(UNetConfig::from_folder(folder));
  const auto example =
      UNetExample::read(SafetensorsFile(options.text("input")), unet.config(), with_gradients);
  // The weight files are unmapped again before the network runs.
  Buffer loaded = load_parameters(unet.parameters(), {folder, "diffusion_pytorch_model"}, compute);
  const Buffer flat = convert_parameters(std::move(loaded), compute, exec.device());

  std::optional<DenseGradients> gradients;
  if (with_gradients) gradients.emplace(unet.parameters(), exec.device());
  auto outcome = run(exec, unet, {unet.parameters(), flat}, example,
                     gradients ? &*gradients : nullptr, options.flag("recompute"));
  Buffer here;  // the gradients, until they are written
  SafetensorsWriter writer;
  writer.add("prediction", std::move(outcome.prediction));
  const auto loss = static_cast<float>(outcome.loss);
  if (gradients) {
    writer.add("loss", view_of(&loss, {}));
    const ParameterTable& table = unet.parameters();
    here = gradients->on_host();
    const Weights by_id(table, here);
    for (ParamId id = 0; id < table.size(); ++id) add_gradient(writer, table[id], by_id[id]);
  }
  writer.write(output);
}

}  // namespace

int eval_unet(const Arguments& arguments) {
  Options options("eval unet --model DIR --input IN.safetensors --output OUT.safetensors",
                  "Runs a U-Net of the Stable Diffusion 1 and 2 family on one batch.",
                  "strata eval unet --model sd2 --input in.safetensors --output out.safetensors "
                  "--grad");
  add_eval_options(
      options, "unet folder of diffusers, or the pipeline that holds unet/",
      "safetensors: sample (N,4,H,W), timestep (N) or (), encoder_hidden_states (N,T,D); "
      "optional encoder_attention_mask (N,T), class_labels (N,P)",
      "safetensors to write: prediction (N,4,H,W)");
  options.add()("grad", toggle(),
                "the input also has target (N,4,H,W); write loss and grad.NAME too")(
      "recompute", toggle(),
      "with --grad: keep no activations inside the blocks, run them again (the same bits)")(
      "describe", toggle(),
      "print parameters and FLOPs as JSON; needs the model's config.json only");
  if (!options.parse(arguments)) return 0;
  const std::string folder = module_folder(options.text("model"), "unet");
  if (options.flag("describe")) return describe(folder);
  evaluate(options, folder);
  return 0;
}

}  // namespace strata::commands
