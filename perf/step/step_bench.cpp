// Whole steps of a U-Net with random weights on a random batch, as one JSON document:
//   step_bench U-NET [--device host|cuda] [--side 32] [--tokens 77] [--batch 4] [--dtype bf16|f32]
//              [--steps 5] [--warm 1] [--forward-only]
//   mpirun -np 2 step_bench ...     --batch is each rank's; rank 0 prints
// U-NET: a config.json, e.g. configs/models/sd2-unet/config.json. A step is noise, forward, loss,
// backward, norm and AdamW; with --forward-only it is one evaluation without gradients. Threads:
// OMP_NUM_THREADS. The peak that the share is of is measured before the steps, in this process, on
// all ranks at once. peak_resident_bytes is of the whole process, building included.

#include "perf/step/step_bench.hpp"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/log.hpp"
#include "core/peaks.hpp"
#include "core/process.hpp"
#include "dist/node_memory.hpp"

namespace strata {
namespace {

struct Options {
  std::string unet, device = "host", dtype = "bf16";
  std::int64_t side = 32, tokens = 77, batch = 4, steps = 5, warm = 1;
  bool forward_only = false;

  Options(int argc, char** argv) {
    const std::map<std::string, std::int64_t*> numbers{{"--side", &side},
                                                       {"--tokens", &tokens},
                                                       {"--batch", &batch},
                                                       {"--steps", &steps},
                                                       {"--warm", &warm}};
    const std::map<std::string, std::string*> words{{"--device", &device}, {"--dtype", &dtype}};
    for (int i = 1; i < argc; ++i) {
      const std::string name = argv[i];
      if (name == "--forward-only") {
        forward_only = true;
      } else if (!name.starts_with("--") && unet.empty()) {
        unet = name;
      } else if (i + 1 == argc || !(numbers.contains(name) || words.contains(name))) {
        fail(Exit::usage, "{}: not an option, or without its value", name);
      } else if (words.contains(name)) {
        *words.at(name) = argv[++i];
      } else {
        *numbers.at(name) = std::atoll(argv[++i]);
      }
    }
    if (unet.empty()) fail(Exit::usage, "the U-Net's config.json is not named");
    if ((device != "host" && device != "cuda") || (dtype != "bf16" && dtype != "f32"))
      fail(Exit::usage, "--device is host or cuda, --dtype bf16 or f32");
    if (side < 1 || tokens < 1 || batch < 1 || steps < 1 || warm < 0)
      fail(Exit::usage, "a number is too small");
  }
};

/// What is measured, and its state: `step` once, then what to say of it.
nlohmann::json measure(const Options& options, Exec& exec, Communicator& world, const UNet& unet) {
  const WorkShape shape{.samples = options.batch,
                        .side = options.side,
                        .tokens = options.tokens,
                        .dtype = options.dtype == "bf16" ? DType::bf16 : DType::f32};
  const auto seconds_of = [&](const auto& step) {
    return seconds_of_each(exec, static_cast<int>(options.warm), static_cast<int>(options.steps),
                           step);
  };
  const Flops flops = unet.flops(options.side, options.side, options.tokens);
  nlohmann::json result;
  if (options.forward_only) {
    RandomEvaluation evaluation(exec, unet, random_weights(unet), shape, 0);
    share_layouts(exec, world, evaluation.parameters());  // as the sampler's ranks do
    result["seconds"] = seconds_of([&] { evaluation.evaluate(); });
    result["FLOPs"] = flops.forward;
    return result;
  }
  const auto between = connect_devices(world, exec.device());
  RandomTraining training(exec, for_tensors(between, world), unet, random_weights(unet), shape,
                          {.compute = shape.dtype}, true);
  result["seconds"] = seconds_of([&] { training.step(); });
  result["FLOPs"] = flops.forward + flops.backward;
  const Zero2Memory memory = training.zero().memory();
  result["bytes"] = {{"parameters", memory.parameters},
                     {"gradient_shard", memory.gradient_shard},
                     {"optimizer_state", memory.optimizer_state},
                     {"gradients_in_flight", memory.bucket_buffers}};
  result["loss"] = training.mean_loss();
  return result;
}

int run(int argc, char** argv) {
  Job job(argc, argv);
  Communicator& world = job.world();
  const Options options(argc, argv);
  const Device device =
      options.device == "host" ? host_device : cuda_device(world.local_rank(), world.local_size());
  Exec exec(device);
  exec.measure_choices("");
  const UNet unet(UNetConfig::from_json_file(options.unet));
  world.barrier();
  double peak[] = {compute_peak(exec, options.dtype == "bf16" ? DType::bf16 : DType::f32)};
  world.all_reduce_sum(peak);
  nlohmann::json result = measure(options, exec, world, unet);
  const auto seconds = result["seconds"].get<std::vector<double>>();
  const double median = median_of(seconds);
  const double images = static_cast<double>(options.batch * world.size()) / median;
  const double rate = images * result["FLOPs"].get<double>();
  result.update({{"work", options.forward_only ? "forward" : "train"},
                 {"u_net", options.unet},
                 {"u_net_parameters", unet.parameters().numel()},
                 {"device", options.device},
                 {"ranks", world.size()},
                 {"threads", exec.threads()},
                 {"batch", options.batch},
                 {"side", options.side},
                 {"tokens", options.tokens},
                 {"dtype", options.dtype},
                 {"seconds_a_step", median},
                 {"least_seconds", *std::min_element(seconds.begin(), seconds.end())},
                 {"most_seconds", *std::max_element(seconds.begin(), seconds.end())},
                 {"images_per_s", images},
                 {"TFLOP/s", rate * 1e-12},
                 {"peak_TFLOP/s", peak[0] * 1e-12},
                 {"share_of_peak", rate / peak[0]},
                 {"arena_bytes", exec.arena.held_bytes()},
                 {"arena_peak_bytes", exec.arena.peak_bytes()},
                 {"peak_resident_bytes", peak_resident_bytes()}});
  if (world.rank() == 0) fmt::print("{}\n", result.dump(1));
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  try {
    return strata::run(argc, argv);
  } catch (const strata::Error& error) {
    fmt::print(stderr, "step_bench: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
