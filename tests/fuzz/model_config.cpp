// config.json of a U-Net and of a text model, scheduler_config.json.

#include "diffusion/sampler_config.hpp"
#include "fuzz.hpp"
#include "model/text_config.hpp"
#include "model/unet_config.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string text(input);
  fuzz::reads([&] { UNetConfig::from_json(text, "fuzz"); });
  fuzz::reads([&] { TextConfig::from_json_file(fuzz::memory_file().holding(text)); });
  for (const SamplerKind kind : {SamplerKind::ddim, SamplerKind::euler, SamplerKind::dpmpp_2m})
    fuzz::reads([&] { SamplerConfig::from_json(text, "fuzz", kind); });
}
