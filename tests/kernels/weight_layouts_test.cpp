// Weights in oneDNN's layouts: bit by bit what its own reorder makes of them.

#include "kernels/host/weight_layouts.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "core/buffer.hpp"
#include "kernels/host/vendor.hpp"

namespace strata {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

/// Every value another pattern of bits; the target full of what must be overwritten.
void expect_vendors_bits(const memory::desc& plain, const memory::desc& wanted,
                         const std::string& what) {
  const auto layout = host::weight_layout(plain, wanted);
  ASSERT_TRUE(layout) << what;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  std::vector<std::byte> from(plain.get_size());
  const std::size_t value = memory::data_type_size(plain.data_type());
  for (std::size_t i = 0; i < from.size() / value; ++i) {
    const auto bits = static_cast<std::uint32_t>(i * 2654435761u) & 0x7f7f7f7fu;  // finite
    std::memcpy(&from[i * value], &bits, value);
  }
  std::vector<std::byte> want(wanted.get_size(), std::byte{0xff}), got(want);
  memory source(plain, engine, from.data()), target(wanted, engine, want.data());
  dnnl::stream stream(engine);
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
  for (const int threads : {1, 3}) {
    Exec exec(host_device, threads);
    std::fill(got.begin(), got.end(), std::byte{0xff});
    host::lay_out(exec, *layout, got.data(), from.data());
    EXPECT_EQ(got, want) << what << ", " << threads << " threads";
  }
}

std::string text_of(const memory::dims& dims) {
  std::string text;
  for (const auto extent : dims) text += std::to_string(extent) + " ";
  return text;
}

/// The vendor's layouts of one type.
struct Tags {
  memory::data_type type;
  std::vector<Tag> tags;
};

/// plain_of(dims, type): how weights of these dims lie in plain memory.
template <class PlainOf>
void expect_vendors_bits(const std::vector<Tags>& all, const std::vector<memory::dims>& weights,
                         PlainOf plain_of) {
  for (const auto& [type, tags] : all)
    for (const Tag tag : tags)
      for (const memory::dims& dims : weights)
        expect_vendors_bits(plain_of(dims, type), {dims, type, tag}, text_of(dims));
}

TEST(WeightLayouts, Products) {
  expect_vendors_bits(
      {{memory::data_type::f32, {Tag::BA16a16b, Tag::BA16a32b, Tag::BA16a48b, Tag::BA16a64b}},
       {memory::data_type::bf16,
        {Tag::BA16a16b2a, Tag::BA16a32b2a, Tag::BA16a48b2a, Tag::BA16a64b2a}}},
      {{64, 64}, {320, 128}, {33, 65}, {1, 1}, {77, 320}},
      [](const memory::dims& dims, memory::data_type type) {
        return memory::desc(dims, type, memory::dims{1, dims[0]});
      });
}

TEST(WeightLayouts, Convolutions) {
  expect_vendors_bits(
      {{memory::data_type::f32, {Tag::Acdb16a, Tag::Acdb32a, Tag::Acdb48a, Tag::Acdb64a}},
       {memory::data_type::bf16, {Tag::AcdB16a2b, Tag::AcdB32a2b, Tag::AcdB48a2b, Tag::AcdB64a2b}}},
      {{64, 32, 3, 3}, {96, 320, 1, 1}, {4, 320, 3, 3}, {320, 4, 3, 3}, {17, 35, 2, 3}},
      [](const memory::dims& dims, memory::data_type type) {
        return memory::desc(dims, type, Tag::acdb);
      });
}

TEST(WeightLayouts, OthersAreTheVendors) {
  const memory::dims dims{64, 32, 3, 3};
  const auto bf16 = memory::data_type::bf16, f32 = memory::data_type::f32;
  const memory::desc plain(dims, bf16, Tag::acdb);
  EXPECT_FALSE(host::weight_layout(plain, {dims, bf16, Tag::ABcd8a16b2a}));
  EXPECT_FALSE(host::weight_layout({dims, bf16, Tag::abcd}, {dims, bf16, Tag::AcdB64a2b}));
  EXPECT_FALSE(host::weight_layout(plain, {dims, f32, Tag::Acdb64a}));
}

}  // namespace
}  // namespace strata
