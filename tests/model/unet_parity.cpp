// Prints the table of the U-Net's corners in docs/parity.md: build/host/unet_parity

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
      "| corner | what it is | prediction | worst gradient | bf16 prediction | bf16 gradients |\n"
      "|---|---|---|---|---|---|\n");
  for (const auto& name : golden_unets()) print_row(name);
}

}  // namespace
}  // namespace strata::test

int main() {
  strata::test::print_table();
}
