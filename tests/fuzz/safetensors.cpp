// safetensors: header, layout, and every tensor read.

#include "core/safetensors.hpp"

#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string& path = fuzz::memory_folder().put("input", input);
  fuzz::reads([&] {
    const SafetensorsFile file(path);
    for (const auto& [name, entry] : file.entries()) {
      if (file.raw(name).size() != entry.end - entry.begin) std::abort();
      fuzz::reads([&, &tensor = name] { file.read_f32(tensor); });
      fuzz::reads([&, &tensor = name] { file.read_i64(tensor); });
    }
  });
}
