// MANIFEST.json of a checkpoint behind its hash: the input is what the hash is made of.

#include "train/checkpoint_manifest.hpp"

#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string text = fmt::format("{},\n\"sha256\": \"{}\"}}\n", input, sha256_hex(input));
  fuzz::reads([&] {
    const checkpoint::Manifest manifest = checkpoint::parse_manifest(text, "fuzz");
    checkpoint::check_tiles(manifest);
    const checkpoint::Manifest again =
        checkpoint::parse_manifest(checkpoint::to_text(manifest), "own");
    if (again.tensors.size() != manifest.tensors.size() || again.step != manifest.step)
      std::abort();
  });
}
