// Gaussian noise. Compiled with contraction off: see portable/normals.hpp.

#include "kernels/portable/normals.hpp"

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

void HostBackend::normals(Exec& exec, Tensor out, PhiloxKey key, Tensor counters) {
  constexpr std::int64_t piece = 256;  // words drawn, then turned into normals
  const std::int64_t batch = out.shape[0], width = batch == 0 ? 0 : out.numel() / batch;
  const std::int64_t pieces = (width + piece - 1) / piece;
  const auto* at = reinterpret_cast<const PhiloxCounter*>(counters.data);
  float* to = out.as<float>();
  for_rows(exec, batch * pieces, 8 * piece, [=](std::int64_t task) {
    const std::int64_t b = task / pieces, begin = task % pieces * piece;
    std::uint32_t radius[piece / 2] = {}, angle[piece / 2] = {};
    for (std::int64_t i = 0; i < piece / 4; ++i) {
      const auto words = random_block(key, at[b], static_cast<std::uint32_t>(begin / 4 + i));
      radius[2 * i] = words[0];
      angle[2 * i] = words[1];
      radius[2 * i + 1] = words[2];
      angle[2 * i + 1] = words[3];
    }
    float normal[piece];
    for (std::int64_t i = 0; i < piece / 2; ++i) {
      const auto pair = portable::normal_pair(radius[i], angle[i]);
      normal[2 * i] = pair.first;
      normal[2 * i + 1] = pair.second;
    }
    std::copy_n(normal, std::min(piece, width - begin), to + b * width + begin);
  });
}

}  // namespace strata::host
