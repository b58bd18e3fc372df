// config.json of a U-Net and of a text model, scheduler_config.json.

#include <nlohmann/json.hpp>

#include "core/json.hpp"
#include "diffusion/sampler_config.hpp"
#include "fuzz.hpp"
#include "model/text_config.hpp"
#include "model/unet_config.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string text(input);
  // All of them begin with this, and most mutants end here.
  if (!fuzz::reads([&] { parse_json(text, "fuzz"); })) return;
  fuzz::reads([&] { UNetConfig::from_json(text, "fuzz"); });
  fuzz::reads([&] { TextConfig::from_json_file(fuzz::memory_folder().put("config.json", text)); });
  // One of the samplers: each makes a schedule, which is most of an execution's time.
  constexpr SamplerKind kinds[] = {SamplerKind::ddim, SamplerKind::euler, SamplerKind::dpmpp_2m};
  fuzz::reads([&] { SamplerConfig::from_json(text, "fuzz", kinds[text.size() % 3]); });
}
