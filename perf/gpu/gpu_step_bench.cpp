// Whole work on a GPU as one JSON document, what perf/peers/gpu.py does in PyTorch:
//   gpu_step_bench U-NET [FILTER [SECONDS]]     U-NET: configs/models/sd2-unet/config.json
// Cases whose name holds FILTER; none begins after so many SECONDS. One that fails (exit 1), or
// does not fit on the device, says why in its place, and the others are measured. Training steps of
// the U-Net (passes, norm, AdamW) and its evaluations while sampling, played from recordings; one
// layer of a 7B text model, said for 32 of them. Weights are random. Times are of the clock, over
// several steps between two waits for the device. With each training step: bytes that the arena
// took, and what the dry run says of them.

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "perf/step/step_bench.hpp"
#include "perf/text/random_model.hpp"
#include "train/plan.hpp"

namespace strata {
namespace {

constexpr std::int64_t tokens = 77;

class Cases {
 public:
  Cases(std::string filter, double seconds) : filter_(std::move(filter)), seconds_(seconds) {}
  template <class F>
  void add(const std::string& name, F measure) {
    if (name.find(filter_) == std::string::npos) return;
    nlohmann::json result{{"name", name}};
    if (since_start() > seconds_) {
      result["skipped"] = "the time is over";
    } else {
      try {
        result.update(measure());
      } catch (const Error& error) {
        if (error.code() == Exit::unavailable) throw;
        const std::string_view why = error.what();
        const bool too_large = why.starts_with("out of device memory");
        result[too_large ? "skipped" : "error"] = why;
        has_failed_ = has_failed_ || !too_large;
      }
    }
    cases_.push_back(std::move(result));
  }
  const nlohmann::json& all() const { return cases_; }
  bool has_failed() const { return has_failed_; }

 private:
  using Clock = std::chrono::steady_clock;
  double since_start() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }

  std::string filter_;
  double seconds_;
  Clock::time_point start_ = Clock::now();
  bool has_failed_ = false;
  nlohmann::json cases_ = nlohmann::json::array();
};

struct Network {
  UNet unet;
  Buffer weights;  // drawn once for all cases
};

nlohmann::json train(const Network& of, std::int64_t side, std::int64_t samples, bool graphs) {
  const UNet& unet = of.unet;
  Exec exec(cuda_device());
  exec.measure_choices("");
  const auto alone = local_communicator();
  const auto device = connect_devices(*alone, exec.device());
  const WorkShape shape{.samples = samples, .side = side, .tokens = tokens};
  RandomTraining training(exec, *device, unet, of.weights, shape, {.compute = shape.dtype}, graphs);
  const double seconds = seconds_in_a_row(exec, 4, samples > 1 ? 10 : 40, [&] { training.step(); });
  const Flops flops = unet.flops(side, side, tokens);
  const auto images = static_cast<double>(samples) / seconds;
  const PassMemory plan =
      pass_memory(unet, microbatch_shape(unet.config(), shape), tokens * samples, false);
  return {{"ms", seconds * 1e3},
          {"images_per_s", images},
          {"TFLOP/s", images * (flops.forward + flops.backward) * 1e-12},
          {"arena_bytes", exec.arena.held_bytes()},
          {"planned_arena_bytes", plan.arena + plan.workspace},
          {"finite", std::isfinite(training.mean_loss())}};
}

/// One evaluation of the network: batch 1 with guidance has two rows, one of them without text.
nlohmann::json sample(const Network& of, std::int64_t side, std::int64_t rows) {
  Exec exec(cuda_device());
  exec.measure_choices("");
  RandomEvaluation evaluation(exec, of.unet, of.weights,
                              {.samples = rows, .side = side, .tokens = tokens}, rows / 2);
  const double seconds = seconds_in_a_row(exec, 4, 50, [&] { evaluation.evaluate(); });
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
  const double seconds = seconds_in_a_row(exec, 1, 10, run);
  const double rate = static_cast<double>(offsets.back()) / seconds;
  return {{"ms", seconds * 1e3}, {"tokens_per_s_of_32_layers", rate / 32}};
}

/// What most is asked for comes first: choosing engines for a new shape takes seconds.
int run(const std::string& config, const std::string& filter, double seconds) {
  Cases cases(filter, seconds);
  UNet unet(UNetConfig::from_json_file(config));
  Buffer weights = random_weights(unet);
  const Network network{std::move(unet), std::move(weights)};
  cases.add("encode 7B", [] { return encode(); });
  for (const std::int64_t side : {32, 64}) {
    for (const std::int64_t batch : {64, 1, 32}) {
      const std::string name = fmt::format("train {}x{} batch {}", side, side, batch);
      cases.add(name, [&] { return train(network, side, batch, true); });
      if (batch == 1)
        cases.add(name + " without graphs", [&] { return train(network, side, batch, false); });
    }
    for (const std::int64_t rows : {2, 32})
      cases.add(fmt::format("sample {}x{} rows {}", side, side, rows),
                [&] { return sample(network, side, rows); });
  }
  fmt::print("{}\n", cases.all().dump(1));
  return cases.has_failed() ? 1 : 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "gpu_step_bench: error: the U-Net's config.json is not named\n");
    return 64;
  }
  try {
    const double forever = std::numeric_limits<double>::infinity();
    return strata::run(argv[1], argc > 2 ? argv[2] : "", argc > 3 ? std::atof(argv[3]) : forever);
  } catch (const strata::Error& error) {
    fmt::print(stderr, "gpu_step_bench: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
