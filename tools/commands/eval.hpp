#pragma once
// The modules of `strata eval MODULE`; arguments come without MODULE.

#include "commands/commands.hpp"

namespace strata::commands {

int eval_unet(const Arguments&);
int eval_vae_encode(const Arguments&);
int eval_vae_decode(const Arguments&);
int eval_text(const Arguments&);
int eval_encoder(const Arguments&);
int eval_generate(const Arguments&);
int eval_scheduler(const Arguments&);

}  // namespace strata::commands
