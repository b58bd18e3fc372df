// The index of sharded weights: names of files from outside.

#include "core/safetensors.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  auto& folder = fuzz::memory_folder();
  static const bool made = [&] {
    const auto shard = [&](const char* file, const char* name) {
      Buffer tensor(DType::f32, {2});
      tensor.as<float>()[0] = tensor.as<float>()[1] = 1;
      SafetensorsWriter writer;
      writer.add(name, std::move(tensor));
      writer.write(folder.path() + "/" + file);
    };
    shard("model-00001-of-00002.safetensors", "a");
    shard("model-00002-of-00002.safetensors", "b");
    return true;
  }();
  (void)made;
  folder.put("model.safetensors.index.json", input);
  fuzz::reads([&] {
    const SafetensorsFolder weights(folder.path(), "model");
    for (const std::string& name : weights.names()) weights.read_f32(name);
  });
}
