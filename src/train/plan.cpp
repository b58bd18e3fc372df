#include "train/plan.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

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
  ScratchGradients(Exec& exec, const ParameterTable& table) : table_(table) {
    std::int64_t largest = 0;
    for (ParamId id = 0; id < table.size(); ++id) largest = std::max(largest, table[id].numel());
    scratch_ = Buffer(DType::f32, {largest}, exec.device());
    ops::fill(exec, scratch_, 0.0f);
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

struct HostMemory {
  double activations = 0;  // and temporaries, of one image: the high-water mark of its passes
  double layouts = 0;      // weights in the backend's own layouts
};

HostMemory host_memory(Exec& exec, const UNet& unet, const CacheSet& caches,
                       const TrainConfig& config) {
  const DType dtype = compute_dtype(config);
  const auto tokens =
      caches.text_manifest().tokens / std::max<std::int64_t>(caches.text_manifest().count, 1);
  const MicrobatchShape shape = microbatch_shape(caches, 1, config.data.pooled, dtype, {});
  const Microbatch input(exec, shape);
  PassInput at = input.at(std::max<std::int64_t>(tokens, 1));
  std::memset(at.noise.at.data, 0, MicrobatchLayout(shape).bytes);
  at.text.offsets.as<std::int64_t>()[1] = at.text.tokens.shape[0];
  const Buffer flat = Buffer::zeros(dtype, {unet.parameters().numel()});
  const Buffer losses = Buffer::zeros(DType::f32, {1});
  ScratchGradients gradients(exec, unet.parameters());
  const ArenaScope scope(exec.arena);
  run_passes(exec, unet, Weights(unet.parameters(), flat), gradients, at,
             {.recompute = config.train.recompute}, losses);
  exec.weights_changed();
  return {static_cast<double>(exec.arena.peak_bytes()), static_cast<double>(exec.layout_bytes())};
}

/// A line of the plan: what, and how much.
struct Part {
  const char* what;
  double bytes;
  bool on_host = false;  // beside a device's memory
};

std::vector<Part> parts_of(const TrainConfig& config, Exec& exec, const UNet& unet,
                           const CacheSet& caches, std::int64_t microbatch,
                           Communicator& communicator) {
  const auto microbatches =
      static_cast<int>(config.train.batch / (microbatch * communicator.size()));
  const auto zero = Zero2::plan(unet.parameters(), zero2_options(config), communicator.rank(),
                                communicator.size(), microbatches);
  std::vector<Part> parts{{"parameters", static_cast<double>(zero.parameters)},
                          {"gradient shard", static_cast<double>(zero.gradient_shard)},
                          {"optimizer state", static_cast<double>(zero.optimizer_state)},
                          {"moving average", static_cast<double>(zero.ema)},
                          {"gradients in flight", static_cast<double>(zero.bucket_buffers)}};
  if (config.train.device == "host") {
    double measured[] = {0, 0};  // once: it takes the memory of all parameters
    if (communicator.rank() == 0) {
      exec.keep_layouts(microbatches > 1);
      const HostMemory memory = host_memory(exec, unet, caches, config);
      measured[0] = memory.activations * static_cast<double>(microbatch);
      measured[1] = memory.layouts;
    }
    communicator.all_reduce_sum(measured);
    parts.push_back({"activations, temporaries", measured[0]});
    // Kept ones are the node's; its ranks are taken to be as many as this one's.
    const int users = microbatches > 1 ? communicator.local_size() : 1;
    parts.push_back({users > 1 ? "weight layouts, its share" : "weights in other layouts",
                     measured[1] / users});
    return parts;
  }
  const RowBuckets buckets = step_buckets(caches, microbatch, microbatches, step_mode(config));
  const PassMemory passes = pass_memory(
      unet,
      microbatch_shape(caches, microbatch, config.data.pooled, compute_dtype(config), buckets),
      buckets.most_rows(), config.train.recompute);
  parts.push_back({"activations", static_cast<double>(passes.activations)});
  parts.push_back({"workspace, estimated", static_cast<double>(passes.workspace)});
  parts.push_back(
      {"unused ends of its arena", static_cast<double>(passes.arena - passes.activations)});
  parts.push_back({"input, three times", static_cast<double>(passes.input.device)});
  parts.push_back({"pinned, on the host", static_cast<double>(passes.input.pinned), true});
  return parts;
}

}  // namespace

PassMemory pass_memory(const UNet& unet, const MicrobatchShape& shape, std::int64_t rows,
                       bool recompute) {
  Exec exec(counted_device, 1);
  const Microbatch input(exec, shape);
  const Buffer flat(shape.dtype, {unet.parameters().numel()}, counted_device);
  const Buffer losses(DType::f32, {shape.samples}, counted_device);
  ScratchGradients gradients(exec, unet.parameters());
  const ArenaScope scope(exec.arena);
  run_passes(exec, unet, Weights(unet.parameters(), flat), gradients, input.at(rows),
             {.recompute = recompute}, losses);
  // Seldom is a convolution given more; attention's backward adds dq up in f32.
  constexpr std::int64_t convolution = std::int64_t{64} << 20;
  const auto queries = static_cast<std::int64_t>(sizeof(float)) * shape.samples * shape.latent[1] *
                       shape.latent[2] * unet.config().block_out_channels[0];
  return {.activations = static_cast<std::int64_t>(exec.arena.peak_bytes()),
          .arena = static_cast<std::int64_t>(exec.arena.held_bytes()),
          .workspace = std::max(convolution, queries),
          .input =
              Feed::cost(counted_device, static_cast<std::int64_t>(MicrobatchLayout(shape).bytes))};
}

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

namespace {

/// None where the run's device is not here.
std::optional<double> rate_of_all(const TrainConfig& config, Exec& host, DType dtype,
                                  Communicator& communicator) {
  double rate[] = {0};
  if (config.train.device == "host") {
    rate[0] = measured_matmul_rate(host, dtype);
  } else {
    try {
      Exec device(device_of(config, communicator));
      rate[0] = measured_matmul_rate(device, dtype);
    } catch (const Error& error) {
      if (error.code() != Exit::unavailable) throw;
    }
  }
  communicator.all_reduce_sum(rate);
  return rate[0] > 0 ? std::optional(rate[0]) : std::nullopt;
}

}  // namespace

std::string plan_training(const TrainConfig& config, Communicator& communicator) {
  const int ranks = communicator.size();
  const auto microbatch = microbatch_of(config, ranks);
  const CacheSet caches = open_caches(config);
  const UNet unet(resolve_unet(config, caches));
  const ParameterTable& table = unet.parameters();
  const DType dtype = compute_dtype(config);
  const auto& t = config.train;
  Exec exec(host_device, static_cast<int>(t.threads));
  const auto parts = parts_of(config, exec, unet, caches, microbatch, communicator);
  double total = 0;
  for (const Part& part : parts)
    if (!part.on_host) total += part.bytes;
  const std::optional<double> rate = rate_of_all(config, exec, dtype, communicator);

  const Shape latent = caches.latent_shape();
  const auto& text = caches.text_manifest();
  const auto tokens = text.tokens / std::max<std::int64_t>(text.count, 1);
  const Flops flops = unet.flops(latent[1], latent[2], tokens);
  const double a_step = (flops.forward + flops.backward) * static_cast<double>(t.batch);
  const double state = static_cast<double>(table.numel()) * (t.ema_decay > 0 ? 16 : 12);
  const double epochs = static_cast<double>(t.steps) * t.batch / caches.size();

  std::string out;
  const auto line = [&](const char* what, const std::string& value) {
    out += fmt::format("  {:<28}{}\n", what, value);
  };
  out +=
      fmt::format("{} parameters, {} ranks x {} threads, {} images a step in microbatches of {}\n",
                  table.numel(), ranks, exec.threads(), t.batch, microbatch);
  out += "memory a rank\n";
  for (const Part& part : parts)
    if (part.bytes > 0) line(part.what, gigabytes(part.bytes));
  line("total", gigabytes(total));
  if (t.device != "host")
    line("not counted", "CUDA's context and libraries, NCCL's buffers, recordings");
  out += "run\n";
  line("samples", fmt::format("{} to train on, {} held out", caches.size(),
                              caches.size(CacheSet::Part::validation)));
  line("steps", fmt::format("{} ({:.4g} epochs, {:.4g} images)", t.steps, epochs,
                            static_cast<double>(t.steps) * t.batch));
  line("training FLOPs an image", fmt::format("{:.1f} G", (flops.forward + flops.backward) / 1e9));
  if (rate) {
    const double seconds = a_step / *rate;
    line("measured matmul rate", fmt::format("{:.1f} GFLOP/s over all ranks", *rate / 1e9));
    line("time a step", fmt::format("{} at 50 % of that rate", format_duration(2 * seconds)));
    line("time in all", format_duration(2 * seconds * static_cast<double>(t.steps)));
  } else {
    line("time a step", "not known: there is no such device here");
  }
  line("a checkpoint", gigabytes(state));
  line("checkpoints kept", t.keep > 0 ? gigabytes(state * static_cast<double>(t.keep + 1)) +
                                            " at most, with one in the making"
                                      : "all of them");
  return out;
}

}  // namespace strata
