// `strata eval scheduler`: a sampler's trajectory for given model outputs.

#include <cstring>

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "core/safetensors.hpp"
#include "diffusion/sampler.hpp"

namespace strata::commands {

namespace {

const SafetensorsFile::Entry& f32_entry(const SafetensorsFile& file, const std::string& name) {
  if (!file.contains(name)) fail(Exit::data, "{}: tensor {} is missing", file.path(), name);
  const auto& entry = file.entries().at(name);
  if (entry.dtype != "F32")
    fail(Exit::data, "{}: tensor {}: is {}, wanted F32", file.path(), name, entry.dtype);
  return entry;
}

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const auto raw = file.raw(name);
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), values.size() * sizeof(float));
  return values;
}

// model_output must be (steps, sample's shape...).
void check_shapes(const SafetensorsFile& file, int steps) {
  std::vector<std::int64_t> wanted{steps};
  const auto& sample = f32_entry(file, "sample").shape;
  wanted.insert(wanted.end(), sample.begin(), sample.end());
  if (f32_entry(file, "model_output").shape != wanted)
    fail(Exit::data, "{}: tensor model_output: its shape is not ({}, then sample's shape)",
         file.path(), steps);
}

}  // namespace

int eval_scheduler(const Arguments& arguments) {
  namespace po = boost::program_options;
  Options options(
      "eval scheduler --model DIR --input IN.safetensors --output OUT.safetensors",
      "Runs a sampler over given model outputs and writes its timesteps and trajectory.",
      "strata eval scheduler --model sd2/scheduler --sampler ddim --steps 50 "
      "--input in.safetensors --output out.safetensors");
  add_eval_options(options, "folder with scheduler_config.json, or the pipeline with scheduler/",
                   "safetensors: sample (...) and model_output (steps, ...)",
                   "safetensors to write: timesteps, trajectory");
  options.add()("sampler", po::value<std::string>()->default_value("ddim"),
                "ddim | euler | dpmpp_2m")("steps", po::value<int>()->default_value(50),
                                           "number of steps");
  if (!options.parse(arguments)) return 0;
  if (eval_precision(options) != DType::f32)
    fail(Exit::usage, "--precision {}: a sampler computes in fp32", options.text("precision"));
  if (eval_device(options) != host_device)
    fail(Exit::unavailable, "--device {}: samplers run on the host", options.text("device"));

  const SamplerKind kind = sampler_kind(options.text("sampler"));
  const auto config = SamplerConfig::from_json_file(options.text("model"), kind);
  const auto sampler = make_sampler(kind, config, options.get<int>("steps"));
  const SafetensorsFile input(options.text("input"));
  check_shapes(input, sampler->steps());

  std::vector<float> x = floats(input, "sample");
  const std::vector<float> outputs = floats(input, "model_output");
  std::vector<float> trajectory = x;
  for (int step = 0; step < sampler->steps(); ++step) {
    sampler->step(step, x, std::span(outputs).subspan(step * x.size(), x.size()));
    trajectory.insert(trajectory.end(), x.begin(), x.end());
  }

  std::vector<std::int64_t> shape{sampler->steps() + 1};
  const auto& sample_shape = input.entries().at("sample").shape;
  shape.insert(shape.end(), sample_shape.begin(), sample_shape.end());
  SafetensorsWriter writer;
  writer.add("timesteps", view_of(sampler->timesteps().data(), {sampler->steps()}));
  writer.add("trajectory",
             view_of(trajectory.data(), {static_cast<std::int64_t>(trajectory.size())}), shape);
  writer.write(options.text("output"));
  return 0;
}

}  // namespace strata::commands
