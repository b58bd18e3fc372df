// The config's typed description: defaults, TOML both ways, and what each mistake says.

#include "train/config.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"
#include "train/nearest_name.hpp"

namespace strata {
namespace {

constexpr const char* complete = R"(
[data]
latents = "/l"
text = "/t"
[model]
unet = "/u/config.json"
[output]
dir = "/o"
)";

struct Mistake {
  std::string toml;
  std::vector<std::string> overrides;
  std::string says;  // part of the message
};

std::string message_of(const Mistake& mistake, int ranks) {
  try {
    validate(parse_train_config(mistake.toml, "run.toml", mistake.overrides), ranks);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::usage) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(Config, MistakesSayWhereAndWhat) {
  const std::vector<Mistake> mistakes{
      // unknown names
      {"[train]\nstpes = 5\n",
       {},
       "run.toml:2:1: unknown key train.stpes; did you mean train.steps?"},
      {"[train]\n  learning_rte = 5\n", {}, "run.toml:2:3: unknown key train.learning_rte"},
      {"[train]\nprediction = 'epsilon'\n", {}, "did you mean diffusion.prediction?"},
      {"[trian]\nsteps = 5\n", {}, "run.toml:1:2: unknown table [trian]; did you mean [train]?"},
      {"[train]\nmax_train_steps = 5\n",
       {},
       "unknown key train.max_train_steps; did you mean train.steps?"},
      {"[zzzzzzzz]\n", {}, "unknown table [zzzzzzzz]; there are data, model"},
      {"steps = 5\n", {}, "run.toml:1:1: unknown key steps; did you mean samples.steps?"},
      {"[train]\nqqqqqqqq = 1\n", {}, "`strata config keys` lists them all"},
      // wrong types
      {"[train]\nsteps = 'many'\n",
       {},
       "run.toml:2:1: train.steps: expected integer, found a string"},
      {"[train]\nsteps = 5.0\n", {}, "train.steps: expected integer, found a number"},
      {"[train]\nlr = true\n", {}, "train.lr: expected number, found a boolean"},
      {"[train]\nbetas = 0.9\n", {}, "train.betas: expected array of numbers, found a number"},
      {"[train]\nbetas = [0.9, 'x']\n", {}, "expected array of numbers, found a string"},
      {"[data]\npooled = 1\n", {}, "data.pooled: expected boolean, found an integer"},
      {"[data]\ntext = 3\n", {}, "data.text: expected string (path), found an integer"},
      {"[data]\ntext = {a = 1}\n", {}, "found a table"},
      {"[data]\ntext = 1979-05-27\n", {}, "found a date or time"},
      {"train = 3\n", {}, "run.toml:1:1: train: expected a table"},
      // values
      {"[train]\nlr = nan\n", {}, "train.lr: nan is not finite"},
      {"[train]\nlr = inf\n", {}, "train.lr: inf is not finite"},
      {"[train]\nlr = -1e-4\n", {}, "train.lr: -0.0001 is negative"},
      {"[train]\nsteps = -1\n", {}, "train.steps: -1 is negative"},
      {"[train]\nbatch = 0\n", {}, "train.batch: 0 is outside 1 .. 16777216"},
      {"[diffusion]\nzero_terminal_snr = 1\n", {}, "diffusion.zero_terminal_snr: expected"},
      {"[train]\nema_start = -1\n", {}, "train.ema_start: -1 is negative"},
      {"[train]\nema_decay = 1\n", {}, "train.ema_decay: 1 is outside"},
      {"[train]\nbetas = [0.9, 1.0]\n", {}, "train.betas: 1 is outside"},
      {"[train]\ncaption_drop = 1.5\n", {}, "train.caption_drop: 1.5 is outside 0 .. 1"},
      {"[train]\nprecision = 'fp16'\n", {}, "\"fp16\" is not one of bf16, fp32; did you mean"},
      {"[train]\nschedule = 'constnt'\n", {}, "did you mean \"constant\"?"},
      {"[train]\nseed = 99999999999999999999\n", {}, "run.toml:2:"},
      {"[data]\ntext = \"a\\u0000b\"\n", {}, "data.text: a NUL byte"},
      // syntax and size
      {"[train\n", {}, "run.toml:1:7: "},
      {"[train]\nsteps = 1\nsteps = 2\n", {}, "run.toml:3:"},
      {"a = " + std::string(64, '[') + std::string(64, ']'), {}, "run.toml:1:"},
      {"a" + std::string(600, '.') + "b = 1\n", {}, "run.toml:1: more than 256 dots"},
      {"[\n[a = 1\n", {}, "run.toml:"},
      {"[train]\nlr = \xc3\x89\n", {}, "run.toml:2:"},
      {std::string((1 << 20) + 1, '\n'), {}, "1048577 bytes are more than a config may have"},
      // --set
      {complete, {"train.steps"}, "--set train.steps: expected table.key=value"},
      {complete,
       {"train.stps=4"},
       "--set train.stps=4: unknown key train.stps; did you mean train.steps?"},
      {complete, {"train.lr=abc"}, "--set train.lr=abc:1:"},
      {complete, {"train.lr=\"1\""}, "train.lr: expected number, found a string"},
      {complete, {"train.lr=1\n[data]"}, "a line break in the value"},
      {complete, {"train.precision=fp64"}, "\"fp64\" is not one of bf16, fp32"},
      // what several keys say together
      {"", {}, "data.latents: required: the latent cache"},
      {complete, {"output.dir="}, "output.dir: required"},
      {complete, {"model.init=/x"}, "exactly one of model.unet and model.init"},
      {complete, {"model.unet="}, "exactly one of model.unet and model.init"},
      {complete, {"train.batch=100"}, "train.batch: 100 is not divisible by train.microbatch 16"},
      {complete,
       {"train.batch=6", "train.microbatch=2"},
       "train.batch: 6 is not divisible by 4 ranks"},
      {complete, {"train.betas=[0.9]"}, "train.betas: two numbers expected, there are 1"},
      {complete,
       {"diffusion.beta_start=0.5"},
       "diffusion.beta_start: 0.5 is above diffusion.beta_end"},
      {complete, {"train.schedule=cosine", "train.steps=5"}, "train.warmup: 10000 is more than"},
      {complete,
       {"samples.prompts=/p"},
       "samples.text_encoder: required: samples.prompts is given"},
  };
  for (const auto& mistake : mistakes) {
    const auto message = message_of(mistake, 4);
    EXPECT_NE(message.find(mistake.says), std::string::npos)
        << "for: " << mistake.toml.substr(0, 80) << "\n says: " << message.substr(0, 300)
        << "\n wanted: " << mistake.says;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message.substr(0, 300);
  }
}

TEST(Config, DefaultsAreTheRecipe) {
  const auto c = parse_train_config(complete, "run.toml");
  validate(c, 32);
  EXPECT_EQ(c.train.batch, 2048);
  EXPECT_EQ(c.train.steps, 800000);
  EXPECT_EQ(c.train.lr, 1e-4);
  EXPECT_EQ(c.train.betas, (std::vector<double>{0.9, 0.999}));
  EXPECT_EQ(c.train.eps, 1e-8);
  EXPECT_EQ(c.train.weight_decay, 0.01);
  EXPECT_EQ(c.train.warmup, 10000);
  EXPECT_EQ(c.train.schedule, "constant");
  EXPECT_EQ(c.train.seed, 17);
  EXPECT_EQ(c.train.caption_drop, 0.1);
  EXPECT_EQ(c.train.clip, 0);
  EXPECT_EQ(c.train.ema_decay, 0);
  EXPECT_EQ(c.train.precision, "bf16");
  EXPECT_EQ(c.diffusion.prediction, "epsilon");
  EXPECT_EQ(c.diffusion.timesteps, 1000);
  EXPECT_EQ(c.samples.guidance, 7.0);
  EXPECT_EQ(c.samples.steps, 50);
}

TEST(Config, ShippedConfigsAreValid) {
  const std::string configs = std::string(STRATA_SOURCE_DIR) + "/configs/";
  for (const char* name : {"recipe/sd2-256.toml", "example/tiny.toml"}) {
    const auto c = load_train_config(configs + name);
    EXPECT_NO_THROW(validate(c, 2)) << name;
  }
  // The recipe spells the defaults out: nothing but paths may differ.
  const auto recipe = load_train_config(configs + "recipe/sd2-256.toml");
  EXPECT_TRUE(config_differences(TrainConfig{}, recipe, Effect::rounding).empty());
}

TEST(Config, TomlReadsBackAsItself) {
  auto c =
      parse_train_config(complete, "run.toml",
                         std::vector<std::string>{"train.lr=3.3e-5", "train.betas=[0.8, 0.95]",
                                                  "data.also_in=['/a', '/b \"c\"']",
                                                  "data.pooled=true", "output.dir=/tab\there"});
  for (const bool docs : {false, true}) {
    const auto back = parse_train_config(to_toml(c, docs), "shown");
    EXPECT_TRUE(config_differences(c, back).empty());
    EXPECT_EQ(back.data.also_in, (std::vector<std::string>{"/a", "/b \"c\""}));
    EXPECT_EQ(back.output.dir, "/tab\there");
    EXPECT_EQ(back.train.lr, 3.3e-5);
  }
}

TEST(Config, PathsBecomeAbsolute) {
  const auto c = parse_train_config("[data]\nlatents = 'x/../y'\n", "run.toml");
  EXPECT_EQ(c.data.latents, (std::filesystem::current_path() / "y").string());
  EXPECT_EQ(c.data.text, "");
}

TEST(Config, HashKnowsWhatMakesAnotherRun) {
  const auto base = parse_train_config(complete, "run.toml");
  const auto hash_with = [&](const std::string& set) {
    return config_hash(parse_train_config(complete, "run.toml", std::vector{set}));
  };
  EXPECT_EQ(config_hash(base), hash_with("train.log_every=3"));
  EXPECT_EQ(config_hash(base), hash_with("output.dir=/elsewhere"));
  EXPECT_EQ(config_hash(base), hash_with("train.microbatch=8"));
  EXPECT_EQ(config_hash(base), hash_with("train.steps=900000"));
  EXPECT_NE(config_hash(base), hash_with("train.lr=2e-4"));
  EXPECT_NE(config_hash(base), hash_with("train.seed=18"));
  EXPECT_NE(config_hash(base), hash_with("diffusion.prediction=v_prediction"));
  const auto other =
      parse_train_config(complete, "run.toml", std::vector<std::string>{"train.lr=2e-4"});
  EXPECT_EQ(config_differences(base, other),
            std::vector<std::string>{"train.lr: 0.0001 -> 0.0002"});
}

TEST(Config, EveryKeyIsDocumentedOnceAndSettable) {
  TrainConfig c;
  std::vector<std::string> names;
  for (const auto& f : describe(c)) {
    EXPECT_FALSE(f.doc.empty()) << f.name();
    names.push_back(f.name());
    const auto shown = f.as_toml();
    TrainConfig set;
    EXPECT_NO_THROW(set = parse_train_config("", "x", std::vector{f.name() + "=" + shown}))
        << f.name();
    EXPECT_TRUE(config_differences(c, set).empty()) << f.name();
  }
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

TEST(Config, TheReferenceIsUpToDate) {
  EXPECT_EQ(read_file(std::string(STRATA_SOURCE_DIR) + "/docs/config.md"), config_reference())
      << "strata config keys --markdown > docs/config.md";
}

TEST(Config, LearningRateWarmsUpThenFollowsTheSchedule) {
  OptimizationConfig c;
  c.lr = 1;
  c.warmup = 10;
  c.steps = 110;
  EXPECT_DOUBLE_EQ(learning_rate(c, 1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(c, 10), 1);
  EXPECT_DOUBLE_EQ(learning_rate(c, 100), 1);
  c.schedule = "linear";
  EXPECT_DOUBLE_EQ(learning_rate(c, 60), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(c, 110), 0);
  c.schedule = "cosine";
  EXPECT_NEAR(learning_rate(c, 60), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate(c, 35), 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(learning_rate(c, 110), 0, 1e-12);
  c.warmup = 0;
  EXPECT_DOUBLE_EQ(learning_rate(c, 0 + 1), 0.5 * (1 + std::cos(M_PI / 110)));
}

TEST(NearestName, CountsEdits) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", "abc"), 0);
  const std::vector<std::string> names{"train.steps", "train.seed", "samples.steps"};
  EXPECT_EQ(nearest_name("train.step", names), "train.steps");
  EXPECT_EQ(nearest_name("train.sed", names), "train.seed");
  EXPECT_EQ(nearest_name("xyz", names), "");
}

// Values of diffusers 0.42: EMAModel(update_after_step=2, decay=0.6).get_decay(update).
TEST(TrainConfig, EmaStartsAndWarmsUp) {
  OptimizationConfig c;
  c.ema_decay = 0.6;
  EXPECT_EQ(ema_decay(c, 1), 0.6);
  c.ema_start = 2;
  EXPECT_EQ(ema_decay(c, 2), 0);
  EXPECT_EQ(ema_decay(c, 3), 0.6);
  c.ema_warmup = true;
  const double wanted[] = {0, 0, 0, 2.0 / 11, 3.0 / 12, 4.0 / 13};
  for (int i = 0; i < 6; ++i) EXPECT_DOUBLE_EQ(ema_decay(c, i + 1), wanted[i]) << i;
  EXPECT_EQ(ema_decay(c, 100), 0.6);
}

}  // namespace
}  // namespace strata
