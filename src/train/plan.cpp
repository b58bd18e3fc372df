#include "train/plan.hpp"

#include <algorithm>
#include <chrono>

#include "core/progress.hpp"
#include "kernels/ops.hpp"
#include "train/setup.hpp"
#include "train/trainer.hpp"

namespace strata {

namespace {

std::string gigabytes(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes / 1e6)
                     : fmt::format("{:.2f} GB", bytes / 1e9);
}

/// Takes any gradient and keeps none: all parameters share one buffer.
class ScratchGradients : public Gradients {
 public:
  explicit ScratchGradients(const ParameterTable& table) : table_(table) {
    std::int64_t largest = 0;
    for (ParamId id = 0; id < table.size(); ++id) largest = std::max(largest, table[id].numel());
    scratch_ = Buffer::zeros(DType::f32, {largest});
  }
  Tensor operator[](ParamId id) override {
    if (id == no_param) return {};
    return scratch_.tensor().rows(0, table_[id].numel()).reshape(table_[id].memory_shape);
  }
  void ready(std::span<const ParamId>) override {}

 private:
  const ParameterTable& table_;
  Buffer scratch_;
};

/// Activations and temporaries of one image: the high-water mark of a forward and backward pass.
double activation_bytes(Exec& exec, const UNet& unet, const CacheSet& caches, DType dtype,
                        bool recompute) {
  const Shape latent = caches.latent_shape();
  const auto tokens =
      caches.text_manifest().tokens / std::max<std::int64_t>(caches.text_manifest().count, 1);
  const Buffer flat = Buffer::zeros(dtype, {unet.parameters().numel()});
  const ArenaScope scope(exec.arena);
  const auto zeros = [&](DType type, Shape shape) {
    const Tensor t = exec.empty(type, shape);
    ops::fill(exec, t, 0);
    return t;
  };
  TextBatch text;
  text.tokens = zeros(dtype, {std::max<std::int64_t>(tokens, 1), caches.text_dim()});
  const std::int64_t offsets[] = {0, text.tokens.shape[0]};
  text.offsets = view_of(offsets, {2});
  const Tensor pooled =
      unet.config().pooled_dim == 0 ? Tensor{} : zeros(dtype, {1, unet.config().pooled_dim});
  const Tensor sample = zeros(dtype, {1, latent[1], latent[2], latent[0]});
  const std::size_t before = exec.arena.used_bytes();
  UNet::Saved saved{.recompute = recompute};
  const Weights weights(unet.parameters(), flat);
  const Tensor prediction =
      unet.forward(exec, weights, sample, zeros(DType::f32, {1}), text, pooled, &saved);
  ScratchGradients gradients(unet.parameters());
  unet.backward(exec, weights, gradients, saved, prediction);
  exec.weights_changed();
  return static_cast<double>(exec.arena.peak_bytes() - before);
}

}  // namespace

double measured_matmul_rate(Exec& exec, DType dtype) {
  constexpr std::int64_t n = 1024;
  const ArenaScope scope(exec.arena);
  const Tensor x = exec.empty(dtype, {n, n}), w = exec.empty(dtype, {n, n});
  const Tensor y = exec.empty(dtype, {n, n});
  ops::fill(exec, x, 0.5f);
  ops::fill(exec, w, 0.25f);
  double best = 1e9;
  for (int run = 0; run < 4; ++run) {
    const auto start = std::chrono::steady_clock::now();
    ops::linear(exec, y, x, w);
    exec.synchronize();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  exec.weights_changed();
  return 2.0 * n * n * n / best;
}

std::string plan_training(const TrainConfig& config, Communicator& communicator) {
  const int ranks = communicator.size();
  const auto microbatch = microbatch_of(config, ranks);
  const CacheSet caches = open_caches(config);
  const UNet unet(resolve_unet(config, caches));
  const ParameterTable& table = unet.parameters();
  const DType dtype = compute_dtype(config);
  Exec exec(host_device, static_cast<int>(config.train.threads));

  const auto& t = config.train;
  const auto memory = Zero2::plan(table, zero2_options(config), communicator.rank(), ranks,
                                  static_cast<int>(t.batch / (microbatch * ranks)));
  double activations[] = {0};  // measured once: it takes the memory of all parameters
  if (communicator.rank() == 0)
    activations[0] =
        activation_bytes(exec, unet, caches, dtype, t.recompute) * static_cast<double>(microbatch);
  communicator.all_reduce_sum(activations);
  double rate[] = {measured_matmul_rate(exec, dtype)};
  communicator.all_reduce_sum(rate);

  const Shape latent = caches.latent_shape();
  const auto& text = caches.text_manifest();
  const auto tokens = text.tokens / std::max<std::int64_t>(text.count, 1);
  const Flops flops = unet.flops(latent[1], latent[2], tokens);
  const double a_step = (flops.forward + flops.backward) * static_cast<double>(t.batch);
  const double seconds = a_step / rate[0];
  const double state = static_cast<double>(table.numel()) * (t.ema_decay > 0 ? 16 : 12);
  const double epochs = static_cast<double>(t.steps) * t.batch / caches.size();
  const double total = static_cast<double>(memory.total()) + activations[0];

  std::string out;
  const auto line = [&](const char* what, const std::string& value) {
    out += fmt::format("  {:<28}{}\n", what, value);
  };
  out +=
      fmt::format("{} parameters, {} ranks x {} threads, {} images a step in microbatches of {}\n",
                  table.numel(), ranks, exec.threads(), t.batch, microbatch);
  out += "memory a rank\n";
  line("parameters", gigabytes(memory.parameters));
  line("gradient shard", gigabytes(memory.gradient_shard));
  line("optimizer state", gigabytes(memory.optimizer_state));
  if (memory.ema > 0) line("moving average", gigabytes(memory.ema));
  line("gradients in flight", gigabytes(memory.bucket_buffers));
  line("activations, temporaries", gigabytes(activations[0]));
  line("total", gigabytes(total));
  out += "run\n";
  line("samples", fmt::format("{} to train on, {} held out", caches.size(),
                              caches.size(CacheSet::Part::validation)));
  line("steps", fmt::format("{} ({:.4g} epochs, {:.4g} images)", t.steps, epochs,
                            static_cast<double>(t.steps) * t.batch));
  line("training FLOPs an image", fmt::format("{:.1f} G", (flops.forward + flops.backward) / 1e9));
  line("measured matmul rate", fmt::format("{:.1f} GFLOP/s over all ranks", rate[0] / 1e9));
  line("time a step", fmt::format("{} at 50 % of that rate", format_duration(2 * seconds)));
  line("time in all", format_duration(2 * seconds * static_cast<double>(t.steps)));
  line("a checkpoint", gigabytes(state));
  line("checkpoints kept", t.keep > 0 ? gigabytes(state * static_cast<double>(t.keep + 1)) +
                                            " at most, with one in the making"
                                      : "all of them");
  return out;
}

}  // namespace strata
