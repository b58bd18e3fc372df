// Prints docs/parity.md's table of the U-Net: build/host/unet_parity > docs/parity.md

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "unet_corner.hpp"

namespace strata::test {
namespace {

void print_row(const std::string& name) {
  const UNetCorner corner(name);
  const auto config = nlohmann::json::parse(read_file(corner.folder() + "/config.json"));
  const auto f32 = corner.measure(DType::f32), bf16 = corner.measure(DType::bf16);
  fmt::print("| `{}` | {} | {:.1e} | {:.1e} | {:.2e} / {:.2e} | {:.2e} / {:.2e} |\n", name,
             config.at("_about").get<std::string>(), f32.prediction, f32.worst_gradient,
             bf16.prediction, corner.of_pytorch("bf16_error"), bf16.gradients,
             corner.of_pytorch("bf16_grad_error"));
}

void print_table() {
  fmt::print(
      "# Parity with diffusers: the U-Net\n\n"
      "Made by `build/host/unet_parity > docs/parity.md`. Each corner of the config space is a "
      "small random model in\n"
      "`tests/golden/unet`, made by `tools/makers/goldens_unet.py` with diffusers; "
      "`ctest --preset host -R UNetGolden` holds all of\n"
      "them to 2e-5 (prediction), 1e-4 (every parameter's gradient) and, in bf16, twice PyTorch's "
      "own error.\n\n"
      "Errors are relative L2 against diffusers in fp32. bf16 columns: ours / PyTorch's own.\n\n"
      "| corner | what it is | prediction | worst gradient | bf16 prediction | bf16 gradients |\n"
      "|---|---|---|---|---|---|\n");
  for (const auto& name : golden_unets()) print_row(name);
}

}  // namespace
}  // namespace strata::test

int main() {
  strata::test::print_table();
}
