// `strata eval vae-encode` and `vae-decode`.

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "core/safetensors.hpp"
#include "kernels/ops.hpp"
#include "model/vae_tiles.hpp"

namespace strata::commands {

namespace {

/// An image tensor (N,C,H,W) of the file as (N,H,W,C) f32 on exec's device, in the arena.
Tensor read_image(Exec& exec, const SafetensorsFile& file, const std::string& name,
                  std::int64_t channels) {
  if (!file.contains(name)) fail(Exit::data, "{}: tensor {} is missing", file.path(), name);
  const auto& shape = file.entries().at(name).shape;
  if (shape.size() != 4 || shape[1] != channels || shape[0] < 1 || shape[2] < 1 || shape[3] < 1)
    fail(Exit::data, "{}: tensor {} has shape ({}), wanted (N, {}, H, W)", file.path(), name,
         fmt::join(shape, ", "), channels);
  const Buffer host = file.read_f32(name);
  const Tensor nchw = exec.empty(DType::f32, host.tensor().shape);
  memory::copy(nchw.data, nchw.device, host.tensor().data, host_device, nchw.bytes());
  const Tensor nhwc = exec.empty(DType::f32, {shape[0], shape[2], shape[3], shape[1]});
  ops::nchw_to_nhwc(exec, nhwc, nchw);
  return nhwc;
}

/// (N,H,W,C) anywhere -> (N,C,H,W) on the host.
Buffer to_file_layout(Exec& exec, Tensor nhwc) {
  const ArenaScope scope(exec.arena);
  const Shape& s = nhwc.shape;
  const Tensor there = exec.empty(DType::f32, s);
  memory::copy(there.data, there.device, nhwc.data, nhwc.device, nhwc.bytes());
  const Tensor nchw = exec.empty(DType::f32, {s[0], s[3], s[1], s[2]});
  ops::nhwc_to_nchw(exec, nchw, there);
  Buffer host(DType::f32, nchw.shape);
  memory::copy(host.tensor().data, host_device, nchw.data, nchw.device, nchw.bytes());
  return host;
}

}  // namespace

int eval_vae_encode(const Arguments& arguments) {
  Options options(
      "eval vae-encode --model DIR --input IN.safetensors --output OUT.safetensors",
      "Encodes images with an AutoencoderKL of diffusers.",
      "strata eval vae-encode --model sd2 --input in.safetensors --output out.safetensors");
  add_eval_options(options, "vae folder of diffusers, or the pipeline that holds vae/",
                   "safetensors: image (N,3,H,W) in [-1,1]",
                   "safetensors to write: mean, logvar (N,4,h,w)");
  if (!options.parse(arguments)) return 0;
  const std::string& output = options.text("output");
  Exec exec(eval_device(options));
  const Vae vae = Vae::load(options.text("model"), eval_precision(options), exec.device());
  const SafetensorsFile input(options.text("input"));
  const Moments moments = vae.encode(exec, read_image(exec, input, "image", 3));
  SafetensorsWriter writer;
  writer.add("mean", to_file_layout(exec, moments.mean));
  writer.add("logvar", to_file_layout(exec, moments.logvar));
  writer.write(output);
  return 0;
}

int eval_vae_decode(const Arguments& arguments) {
  Options options(
      "eval vae-decode --model DIR --input IN.safetensors --output OUT.safetensors",
      "Decodes latents with an AutoencoderKL of diffusers.",
      "strata eval vae-decode --model sd2 --input in.safetensors --output out.safetensors");
  add_eval_options(options, "vae folder of diffusers, or the pipeline that holds vae/",
                   "safetensors: latent (N,4,h,w), unscaled",
                   "safetensors to write: image (N,3,H,W), not clamped");
  options.add()("tile", boost::program_options::value<std::int64_t>()->default_value(0),
                "pixels a side of overlapping tiles decoded one by one; 0: in one piece");
  if (!options.parse(arguments)) return 0;
  const std::string& output = options.text("output");
  Exec exec(eval_device(options));
  const Vae vae = Vae::load(options.text("model"), eval_precision(options), exec.device());
  const SafetensorsFile input(options.text("input"));
  const Tensor latent = read_image(exec, input, "latent", vae.latent_channels());
  SafetensorsWriter writer;
  writer.add("image", to_file_layout(exec, decode_in_tiles(exec, vae, latent,
                                                           options.get<std::int64_t>("tile"))));
  writer.write(output);
  return 0;
}

}  // namespace strata::commands
