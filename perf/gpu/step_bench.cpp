// Whole work on a GPU as one JSON document, what perf/peers/gpu.py does in PyTorch:
//   gpu_step_bench U-NET [FILTER]     U-NET: configs/models/sd2-unet/config.json
// Training steps of the U-Net (passes, norm, AdamW) and its evaluations while sampling, played from
// recordings; one layer of a 7B text model, said for 32 of them. Weights are random. Times are of
// the clock, over several steps between two waits for the device. With each training step: bytes
// that the arena took, and what the dry run says of them.

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/transfer.hpp"
#include "dist/device_communicator.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"
#include "perf/text/random_model.hpp"
#include "train/plan.hpp"

namespace strata {
namespace {

constexpr std::int64_t tokens = 77;

template <class F>
double seconds_of(Exec& exec, int times, F f) {
  exec.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) f();
  exec.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
}

class Cases {
 public:
  explicit Cases(std::string filter) : filter_(std::move(filter)) {}
  template <class F>
  void add(const std::string& name, F measure) {
    if (name.find(filter_) == std::string::npos) return;
    nlohmann::json result = measure();
    result["name"] = name;
    cases_.push_back(std::move(result));
  }
  const nlohmann::json& all() const { return cases_; }

 private:
  std::string filter_;
  nlohmann::json cases_ = nlohmann::json::array();
};

Batch random_batch(std::int64_t samples, std::int64_t side, std::int64_t text_dim) {
  Exec host(host_device);
  Batch batch;
  const auto normals = [&](Shape shape) {
    Buffer values(DType::f32, shape);
    const PhiloxCounter at{static_cast<std::uint64_t>(shape.numel()), 0, Purpose::noise};
    ops::normals(host, values.tensor().reshape({1, shape.numel()}), {17}, &at);
    return values;
  };
  batch.latents = normals({samples, 4, side, side});
  batch.tokens = normals({samples * tokens, text_dim});
  batch.offsets = Buffer(DType::i64, {samples + 1});
  for (std::int64_t b = 0; b <= samples; ++b) batch.offsets.as<std::int64_t>()[b] = b * tokens;
  for (std::int64_t b = 0; b < samples; ++b) batch.samples.push_back(b);
  batch.epochs.assign(static_cast<std::size_t>(samples), 0);
  return batch;
}

nlohmann::json train(const UNet& unet, std::int64_t side, std::int64_t samples, bool graphs) {
  Exec exec(cuda_device());
  exec.measure_choices("");
  const auto alone = local_communicator();
  DeviceCommunicator device(*alone, exec.device());
  Zero2 zero(exec, device, unet.parameters(), {.compute = DType::bf16});
  Buffer flat(DType::f32, {unet.parameters().numel()});
  initialize(unet.parameters(), flat, 17);
  zero.set_parameters(flat);
  flat = {};
  const MicrobatchShape shape{.samples = samples,
                              .latent = {4, side, side},
                              .text_dim = unet.config().text_dim(),
                              .longest = tokens,
                              .most_rows = tokens * samples,
                              .dtype = DType::bf16};
  Microbatch input(exec, shape);
  const Batch batch = random_batch(samples, side, shape.text_dim);
  const Captions captions = choose_captions(batch, {17}, 0);
  const NoiseSchedule schedule;
  const NoisePlan noise = plan_noise(schedule, {17}, batch.samples, batch.epochs, {});
  const Buffer losses(DType::f32, {samples}, exec.device());
  Replays replays(exec, graphs);
  const auto passes = [&] {
    const ArenaScope scope(exec.arena);
    run_passes(exec, unet, zero.weights(), zero, input.at(shape.most_rows),
               {.grad_scale = 1.0f / static_cast<float>(samples)}, losses);
    zero.end_microbatch();
  };
  std::int64_t steps = 0;
  const auto step = [&] {
    zero.begin_step(1);
    input.set(batch, captions, noise, shape.most_rows);
    if (!replays.run(0, passes)) zero.skip_microbatch();
    const UpdateOptions update{.adamw = {.lr = 1e-4, .step = ++steps}};
    zero.plan_update({&update, 1});
    if (!replays.run(1, [&] { zero.update(); })) zero.update(Zero2::Update::played);
  };
  for (int i = 0; i < 4; ++i) step();
  const double seconds = seconds_of(exec, samples > 1 ? 10 : 40, step);
  const Flops flops = unet.flops(side, side, tokens);
  const auto images = static_cast<double>(samples) / seconds;
  const PassMemory plan = pass_memory(unet, shape, shape.most_rows, false);
  return {{"ms", seconds * 1e3},
          {"images_per_s", images},
          {"TFLOP/s", images * (flops.forward + flops.backward) * 1e-12},
          {"arena_bytes", exec.arena.held_bytes()},
          {"planned_arena_bytes", plan.arena + plan.workspace},
          {"finite", std::isfinite(to_host(losses)[0])}};
}

/// One evaluation of the network: batch 1 with guidance has two rows, one of them without text.
nlohmann::json sample(const UNet& unet, const Weights& weights, std::int64_t side,
                      std::int64_t rows) {
  Exec exec(cuda_device());
  exec.measure_choices("");
  const DType type = DType::bf16;
  const auto random = [&](Shape shape) {
    const Tensor wide = exec.empty(DType::f32, shape), t = exec.empty(type, shape);
    const PhiloxCounter at{static_cast<std::uint64_t>(shape.numel()), 1, Purpose::noise};
    ops::normals(exec, wide.reshape({1, wide.numel()}), {17}, &at);
    ops::cast(exec, t, wide);
    return t;
  };
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t b = 0; b < rows; ++b)
    offsets.push_back(offsets.back() + (b < rows / 2 ? 0 : tokens));
  const TextBatch text{.tokens = random({offsets.back(), unet.config().text_dim()}),
                       .offsets = view_of(offsets.data(), {rows + 1})};
  const Tensor x = random({rows, side, side, 4}), timesteps = exec.empty(DType::f32, {rows});
  ops::fill(exec, timesteps, 501.0f);
  Replays replays(exec);
  const auto step = [&] {
    replays.run(0, [&] {
      const ArenaScope scope(exec.arena);
      unet.forward(exec, weights, x, timesteps, text, {}, nullptr);
    });
  };
  for (int i = 0; i < 4; ++i) step();
  const double seconds = seconds_of(exec, 50, step);
  return {{"ms", seconds * 1e3},
          {"iterations_per_s", 1 / seconds},
          {"evaluations_per_s", static_cast<double>(rows) / seconds}};
}

nlohmann::json encode() {
  Exec exec(cuda_device());
  exec.measure_choices("");
  const RandomModel files(mistral_7b);
  const TextModel model = TextModel::load(exec, files.dir(), DType::bf16);
  std::mt19937 engine(17);
  std::vector<std::int64_t> offsets{0};
  while (offsets.back() < 16384 - 200) offsets.push_back(offsets.back() + 5 + engine() % 196);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(offsets.back()));
  for (auto& id : ids) id = engine() % 1000;
  const Tensor id = view_of(ids.data(), {offsets.back()});
  const Tensor at = view_of(offsets.data(), {static_cast<std::int64_t>(offsets.size())});
  const auto run = [&] { model.forward(exec, id, at, true, [](std::int64_t, Tensor) {}); };
  run();
  const double seconds = seconds_of(exec, 10, run);
  const double rate = static_cast<double>(offsets.back()) / seconds;
  return {{"ms", seconds * 1e3}, {"tokens_per_s_of_32_layers", rate / 32}};
}

int run(const std::string& config, const std::string& filter) {
  Cases cases(filter);
  const UNet unet(UNetConfig::from_json_file(config));
  for (const std::int64_t side : {32, 64})
    for (const std::int64_t batch : {64, 32, 1}) {
      const std::string name = fmt::format("train {}x{} batch {}", side, side, batch);
      cases.add(name, [&] { return train(unet, side, batch, true); });
      if (batch == 1)
        cases.add(name + " without graphs", [&] { return train(unet, side, batch, false); });
    }
  Buffer wide(DType::f32, {unet.parameters().numel()});
  initialize(unet.parameters(), wide, 17);
  const Buffer flat = convert_parameters(std::move(wide), DType::bf16, cuda_device());
  const Weights weights(unet.parameters(), flat);
  for (const std::int64_t side : {32, 64})
    for (const std::int64_t rows : {2, 32})
      cases.add(fmt::format("sample {}x{} rows {}", side, side, rows),
                [&] { return sample(unet, weights, side, rows); });
  cases.add("encode 7B", [] { return encode(); });
  fmt::print("{}\n", cases.all().dump(1));
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "gpu_step_bench: error: the U-Net's config.json is not named\n");
    return 64;
  }
  try {
    return strata::run(argv[1], argc > 2 ? argv[2] : "");
  } catch (const strata::Error& error) {
    fmt::print(stderr, "gpu_step_bench: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
