#include "train/dump.hpp"

#include <filesystem>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "core/transfer.hpp"

namespace strata {

void StepDump::append(Floats& to, Tensor from) {
  if (to.values.empty() && to.shape.rank() == 0) {
    to.shape = from.shape;
    to.shape[0] = 0;
  }
  to.shape[0] += from.shape[0];
  const std::vector<float> values = to_host(from);
  to.values.insert(to.values.end(), values.begin(), values.end());
}

void StepDump::add(const DumpedMicrobatch& microbatch) {
  const auto& [batch, captions, latents, noised, tokens, pooled, loss] = microbatch;
  append(latents_, latents);
  append(noise_, noised.noise);
  append(noisy_, noised.noisy);
  append(text_, tokens);
  if (pooled) append(pooled_, pooled);
  append(loss_, loss);
  const std::int64_t base = offsets_.back();
  const std::vector<float> timesteps = to_host(noised.timesteps);
  for (std::size_t b = 0; b < batch.samples.size(); ++b) {
    timesteps_.push_back(static_cast<std::int64_t>(timesteps[b]));
    sample_.push_back(batch.samples[b]);
    epoch_.push_back(batch.epochs[b]);
    dropped_.push_back(captions.dropped[b]);
    offsets_.push_back(base + captions.offsets[b + 1]);
  }
}

void StepDump::write(const std::string& path,
                     const std::map<std::string, std::string>& metadata) const {
  make_directories(std::filesystem::path(path).parent_path().string());
  SafetensorsWriter writer;
  writer.set_metadata(metadata);
  const auto floats = [&](const char* name, const Floats& f) {
    writer.add(name, view_of(f.values.data(), f.shape));
  };
  const auto integers = [&](const char* name, const std::vector<std::int64_t>& v) {
    writer.add(name, view_of(v.data(), {static_cast<std::int64_t>(v.size())}));
  };
  floats("latents", latents_);
  floats("noise", noise_);
  integers("timesteps", timesteps_);
  floats("noisy", noisy_);
  floats("text", text_);
  integers("offsets", offsets_);
  if (pooled_.shape.rank() != 0) floats("pooled", pooled_);
  integers("dropped", dropped_);
  integers("sample", sample_);
  integers("epoch", epoch_);
  floats("loss", loss_);
  writer.write(path);
}

}  // namespace strata
