#include "diffusion/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"

namespace strata {
namespace {

const std::string goldens = STRATA_SOURCE_DIR "/tests/golden/scheduler/";

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const auto raw = file.raw(name);
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), raw.size());
  return values;
}

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

SamplerConfig parse(const std::string& json, SamplerKind kind) {
  return SamplerConfig::from_json(json, "scheduler_config.json", kind);
}

// The largest error of the whole trajectory; timesteps and first sigma are checked on the way.
double replay(const SafetensorsFile& golden, const std::string& name, Sampler& sampler) {
  const auto timesteps = floats(golden, name + ".timesteps");
  const auto outputs = floats(golden, name + ".model_output");
  const auto trajectory = floats(golden, name + ".trajectory");
  auto x = floats(golden, name + ".sample");
  EXPECT_FLOAT_EQ(sampler.initial_sigma(), floats(golden, name + ".initial_sigma")[0]);
  EXPECT_EQ(sampler.steps(), static_cast<int>(timesteps.size()));
  double worst = 0;
  for (int i = 0; i < sampler.steps(); ++i) {
    // Whole ones are equal; fractional ones come from logarithms of sigmas in fp32.
    EXPECT_NEAR(sampler.timesteps()[i], timesteps[i],
                timesteps[i] == std::floor(timesteps[i]) ? 0 : 2e-4)
        << "step " << i;
    sampler.step(i, x, std::span(outputs).subspan(i * x.size(), x.size()));
    const auto wanted = std::span(trajectory).subspan((i + 1) * x.size(), x.size());
    worst = std::max(worst, relative_l2(x, wanted));
  }
  return worst;
}

TEST(Sampler, TrajectoriesAreThoseOfDiffusers) {
  const auto cases = nlohmann::json::parse(read_file(goldens + "cases.json"));
  const SafetensorsFile golden(goldens + "trajectories.safetensors");
  EXPECT_GE(cases.size(), 60u);
  double worst = 0;
  for (const auto& item : cases) {
    const std::string name = item["name"];
    SCOPED_TRACE(name);
    const SamplerKind kind = sampler_kind(item["sampler"].get<std::string>());
    const auto sampler = make_sampler(kind, parse(item["config"].dump(), kind), item["steps"]);
    const double error = replay(golden, name, *sampler);
    // Euler's x begins at sigma (20291 for the cosine schedule) and ends at 1: what is left of it
    // carries the rounding of the sigma that was taken off.
    EXPECT_LE(error, std::max(2e-5, sampler->initial_sigma() * 0x1p-24));
    worst = std::max(worst, error);
  }
  RecordProperty("largest_relative_l2", std::to_string(worst));
}

// numpy's count of trailing steps is one too many for some numbers; ours is what was asked for.
TEST(Sampler, EveryNumberOfTrailingStepsIsKept) {
  SamplerConfig config;
  config.spacing = SamplerConfig::Spacing::trailing;
  for (int steps = 1; steps <= 1000; ++steps) {
    const auto sampler = make_sampler(SamplerKind::ddim, config, steps);
    ASSERT_EQ(sampler->steps(), steps);
    EXPECT_EQ(sampler->timesteps().front(), 999);
    EXPECT_GE(sampler->timesteps().back(), 0);
  }
}

TEST(Sampler, RecipeSurvivesItsFile) {
  SamplerConfig config;
  EXPECT_EQ(parse(config.to_json(), SamplerKind::ddim).to_json(), config.to_json());
  config.schedule = NoiseSchedule({.timesteps = 3,
                                   .trained_betas = {0.1f, 0.2f, 0.30001f},
                                   .zero_terminal_snr = true,
                                   .prediction = Prediction::v_prediction});
  const auto again = parse(config.to_json(), SamplerKind::ddim);
  EXPECT_EQ(again.to_json(), config.to_json());
  for (int t = 0; t < 3; ++t)
    EXPECT_EQ(again.schedule.alphas_cumprod()[t], config.schedule.alphas_cumprod()[t]);
}

// With the true noise as the model's output every DDIM step lands on the same clean image.
TEST(Sampler, TrueNoiseLeadsToTheCleanImage) {
  const SamplerConfig config;
  const auto sampler = make_sampler(SamplerKind::ddim, config, 50);
  const std::vector<float> clean{0.5f, -1.25f, 2.0f}, noise{1.0f, -0.5f, 0.25f};
  const int first = static_cast<int>(sampler->timesteps()[0]);
  std::vector<float> x(3);
  for (int i = 0; i < 3; ++i)
    x[i] = config.schedule.signal(first) * clean[i] + config.schedule.noise(first) * noise[i];
  for (int i = 0; i < sampler->steps(); ++i) sampler->step(i, x, noise);
  for (int i = 0; i < 3; ++i)  // set_alpha_to_one false: the end is timestep 0
    EXPECT_NEAR(x[i], config.schedule.signal(0) * clean[i] + config.schedule.noise(0) * noise[i],
                2e-5);
}

TEST(Sampler, EulerShowsTheModelAPictureOfUnitVariance) {
  const SamplerConfig config;
  const auto sampler = make_sampler(SamplerKind::euler, config, 20);
  const float sigma = sampler->initial_sigma();
  EXPECT_GT(sigma, 10);
  const std::vector<float> x{sigma, -sigma};
  std::vector<float> y(2);
  sampler->scale_input(0, y, x);
  EXPECT_FLOAT_EQ(y[0], 1);  // leading: sigma_0^2 + 1 under the root, as in initial_sigma
  EXPECT_FLOAT_EQ(y[1], -1);
}

Exit code_of(const std::function<void()>& call, const std::string& word = "") {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    return error.code();
  }
  return Exit::ok;
}

TEST(Sampler, RefusesByKeyAndValue) {
  struct Refusal {
    SamplerKind kind;
    const char *json, *word;
  };
  const auto ddim = SamplerKind::ddim, euler = SamplerKind::euler, dpm = SamplerKind::dpmpp_2m;
  for (const auto& [kind, json, word] : std::initializer_list<Refusal>{
           {ddim, R"({"thresholding": true})", "thresholding = true"},
           {dpm, R"({"thresholding": true})", "thresholding = true"},
           {ddim, R"({"beta_schedule": "exp"})", "beta_schedule = \"exp\""},
           {ddim, R"({"beta_start": 0})", "beta_start = 0"},
           {ddim, R"({"beta_start": 0.5})", "beta_start = 0.5"},
           {ddim, R"({"clip_sample": 1})", "clip_sample = 1"},
           {ddim, R"({"clip_sample_range": Infinity})", "clip_sample_range = "},
           {ddim, R"({"prediction_type": "flow_prediction"})", "prediction_type"},
           {ddim, R"({"prediction_type": "original_sample"})", "prediction_type"},
           {ddim, R"({"timestep_spacing": "even"})", "timestep_spacing = \"even\""},
           {ddim, R"({"steps_offset": 1000})", "steps_offset = 1000"},
           {ddim, R"({"steps_offset": -1})", "steps_offset = -1"},
           {ddim, R"({"num_train_timesteps": 1e3})", "num_train_timesteps"},
           {ddim, R"({"num_train_timesteps": 4000000000})", "num_train_timesteps"},
           {ddim, R"({"trained_betas": [0.1, 0.2]})", "trained_betas has 2 entries"},
           {ddim, R"({"trained_betas": [2], "num_train_timesteps": 1})", "trained_betas"},
           {ddim, R"({"rescale_betas_zero_snr": true, "num_train_timesteps": 1})", "rescale"},
           {euler, R"({"use_beta_sigmas": true})", "use_beta_sigmas = true"},
           {euler, R"({"use_karras_sigmas": true, "use_exponential_sigmas": true})", "use_exp"},
           {euler, R"({"use_karras_sigmas": true, "interpolation_type": "log_linear"})", "interp"},
           {euler, R"({"sigma_min": -1})", "sigma_min = -1"},
           {euler, R"({"timestep_type": "real"})", "timestep_type"},
           {euler, R"({"final_sigmas_type": "one"})", "final_sigmas_type"},
           {dpm, R"({"solver_order": 3})", "solver_order = 3"},
           {dpm, R"({"solver_type": "euler"})", "solver_type"},
           {dpm, R"({"algorithm_type": "sde-dpmsolver++"})", "algorithm_type"},
           {dpm, R"({"use_flow_sigmas": true})", "use_flow_sigmas"},
           {dpm, R"({"variance_type": "learned"})", "variance_type"},
           {dpm, R"({"lambda_min_clipped": "low"})", "lambda_min_clipped"},
           {dpm, R"([1])", "not a JSON object"},
           {dpm, R"({"a": "\)", "scheduler_config.json"}}) {
    EXPECT_EQ(code_of([&, json = json, kind = kind] { parse(json, kind); }, word), Exit::data)
        << json;
  }
  EXPECT_EQ(code_of([] { SamplerConfig::from_json_file("/nowhere", SamplerKind::ddim); }),
            Exit::data);
  EXPECT_EQ(code_of([] { sampler_kind("heun"); }), Exit::usage);
}

TEST(Sampler, KeysOfOtherSamplersAreLeftAside) {
  parse(R"({"thresholding": true, "solver_order": 3})", SamplerKind::euler);
  parse(R"({"use_beta_sigmas": true, "solver_order": 3})", SamplerKind::ddim);
  const auto dpm = parse(R"({"lambda_min_clipped": -Infinity, "note": "a \"-Infinity\" b"})",
                         SamplerKind::dpmpp_2m);
  EXPECT_EQ(make_sampler(SamplerKind::dpmpp_2m, dpm, 20)->timesteps()[0], 999);
}

TEST(Sampler, StepsThatCannotBeTakenAreRefused) {
  const auto steps = [](const char* json, SamplerKind kind, int count) {
    return code_of([&] { make_sampler(kind, parse(json, kind), count); });
  };
  EXPECT_EQ(steps("{}", SamplerKind::ddim, 0), Exit::usage);
  EXPECT_EQ(steps("{}", SamplerKind::ddim, 1001), Exit::usage);
  EXPECT_EQ(steps(R"({"steps_offset": 1})", SamplerKind::ddim, 1000), Exit::usage);
  EXPECT_EQ(steps(R"({"steps_offset": 1})", SamplerKind::euler, 1000), Exit::ok);
  // Two equal timesteps: the multistep slope would be 0 / 0.
  EXPECT_EQ(steps("{}", SamplerKind::dpmpp_2m, 1000), Exit::usage);
  EXPECT_EQ(steps(R"({"timestep_spacing": "leading"})", SamplerKind::dpmpp_2m, 1000), Exit::usage);
  EXPECT_EQ(steps(R"({"timestep_spacing": "leading"})", SamplerKind::dpmpp_2m, 999), Exit::ok);
  EXPECT_EQ(steps(R"({"lambda_min_clipped": 100})", SamplerKind::dpmpp_2m, 5), Exit::usage);
  EXPECT_EQ(steps(R"({"lambda_min_clipped": 0, "timestep_spacing": "trailing"})",
                  SamplerKind::dpmpp_2m, 20),
            Exit::usage);
  // The last timestep has no signal, and the model was trained to say the noise.
  const char* no_signal = R"({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"})";
  EXPECT_EQ(steps(no_signal, SamplerKind::ddim, 5), Exit::usage);
  EXPECT_EQ(steps(no_signal, SamplerKind::euler, 5), Exit::ok);
}

}  // namespace
}  // namespace strata
