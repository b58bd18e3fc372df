#include "kernels/host/weight_layouts.hpp"

#include <span>

#include "kernels/host/launch.hpp"
#include "kernels/host/tile_packing.hpp"
#include "kernels/host/vendor.hpp"

namespace strata::host {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

/// oneDNN's names of what tiles with this side make.
struct Tags {
  std::int64_t side;
  Tag f32, bf16;
  bool is(const memory::desc& layout, DType dtype) const {
    return layout ==
           memory::desc(layout.dims(), vendor_type(dtype), dtype == DType::f32 ? f32 : bf16);
  }
};

constexpr Tags products[] = {{16, Tag::BA16a16b, Tag::BA16a16b2a},
                             {32, Tag::BA16a32b, Tag::BA16a32b2a},
                             {48, Tag::BA16a48b, Tag::BA16a48b2a},
                             {64, Tag::BA16a64b, Tag::BA16a64b2a}};
constexpr Tags convolutions[] = {{16, Tag::Acdb16a, Tag::AcdB16a2b},
                                 {32, Tag::Acdb32a, Tag::AcdB32a2b},
                                 {48, Tag::Acdb48a, Tag::AcdB48a2b},
                                 {64, Tag::Acdb64a, Tag::AcdB64a2b}};

std::int64_t values_of_unit(DType dtype) {
  return dtype == DType::f32 ? unit_values<float> : unit_values<bf16>;
}

std::int64_t blocks(std::int64_t extent, std::int64_t block) {
  return (extent + block - 1) / block;
}

/// The side of the tiles in `layout`; 0 where it has none of these.
std::int64_t side_of(std::span<const Tags> known, const memory::desc& layout, DType dtype) {
  for (const Tags& tags : known)
    if (tags.is(layout, dtype)) return tags.side;
  return 0;
}

template <class T>
void transpose_tiles(Exec& exec, const WeightLayout& l, std::byte* to, const std::byte* from) {
  const std::int64_t pitch = l.taps * l.columns, tile = l.units * l.side;
  for_rows(exec, blocks(l.rows, l.side) * l.taps, tile, [=](std::int64_t index) {
    const std::int64_t first = index / l.taps * l.side, tap = index % l.taps;
    Unit* out = reinterpret_cast<Unit*>(to) + index * tile;
    pack_panel(out, l.side, reinterpret_cast<const T*>(from) + first * pitch + tap * l.columns,
               pitch, l.columns, std::min(l.side, l.rows - first));
    std::fill(out + units_of<T>(l.columns) * l.side, out + tile, Unit{0});
  });
}

}  // namespace

std::optional<WeightLayout> weight_layout(const memory::desc& plain, const memory::desc& wanted) {
  const auto type = plain.data_type();
  if (type != wanted.data_type() || plain.dims() != wanted.dims()) return {};
  if (type != vendor_type(DType::f32) && type != vendor_type(DType::bf16)) return {};
  const DType dtype = type == vendor_type(DType::f32) ? DType::f32 : DType::bf16;
  const auto dims = plain.dims();
  WeightLayout layout{.dtype = dtype};
  if (dims.size() == 2 && plain == memory::desc(dims, type, memory::dims{1, dims[0]})) {
    layout.rows = dims[1];
    layout.columns = dims[0];
    layout.side = side_of(products, wanted, dtype);
    layout.units = round_up(blocks(dims[0], values_of_unit(dtype)), lane);
  } else if (dims.size() == 4 && plain == memory::desc(dims, type, Tag::acdb)) {
    layout.rows = dims[0];
    layout.taps = dims[2] * dims[3];
    layout.columns = dims[1];
    layout.side = side_of(convolutions, wanted, dtype);
    layout.units = blocks(dims[1], values_of_unit(dtype));
  }
  return layout.side > 0 ? std::optional(layout) : std::nullopt;
}

void lay_out(Exec& exec, const WeightLayout& layout, std::byte* to, const std::byte* from) {
  const auto tiles = layout.dtype == DType::f32 ? transpose_tiles<float> : transpose_tiles<bf16>;
  tiles(exec, layout, to, from);
}

}  // namespace strata::host
