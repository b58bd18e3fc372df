#pragma once
// Plain weights in the layouts of oneDNN's forward kernels, which transpose them: its own reorders
// take two to six times as long for that.

#include <dnnl.hpp>
#include <optional>

#include "core/exec.hpp"

namespace strata::host {

/// A plain weight (rows, taps, columns) cut into tiles (units of columns, side): transposes of
/// `side` rows at one tap, as pack_panel makes them. They follow one another by rows, then taps.
struct WeightLayout {
  DType dtype = DType::f32;
  std::int64_t rows = 0, taps = 1, columns = 0;
  std::int64_t side = 0;
  std::int64_t units = 0;  // of a tile, padding included
};

/// How `plain` becomes `wanted`, both of a product's weights (K,N) or a convolution's (O,I,H,W).
/// Absent where only oneDNN knows.
std::optional<WeightLayout> weight_layout(const dnnl::memory::desc& plain,
                                          const dnnl::memory::desc& wanted);

/// to = the weight at `from` in this layout, zero where it is padded.
void lay_out(Exec& exec, const WeightLayout& layout, std::byte* to, const std::byte* from);

}  // namespace strata::host
