// Ragged attention and rotary embedding.

#include "op_test.hpp"

namespace strata {
namespace {

class Attention : public OpTest {
 protected:
  /// Probabilities are rounded before they are multiplied.
  Array of_rounding(const Array& noise) const { return type() == DType::bf16 ? noise : Array{}; }
  /// Two independent errors.
  static Array both(Array a, const Array& b) {
    for (std::int64_t i = 0; i < b.size(); ++i) a[i] = std::hypot(a[i], b[i]);
    return a;
  }
};
STRATA_INSTANTIATE(Attention);

struct AttentionCase {
  Offsets q, k;
  std::int64_t heads, key_heads, width;
  bool causal;
};
const AttentionCase attention_cases[] = {
    {{0, 64, 128}, {0, 64, 128}, 2, 2, 64, false},
    {{0, 16, 32, 48}, {0, 77, 77, 78}, 3, 3, 40, false},  // a sequence without keys
    {{0, 1, 40, 45}, {0, 1, 40, 45}, 4, 2, 16, true},     // causal, shared key heads
    {{0, 5}, {0, 0}, 1, 1, 8, false},                     // no keys at all
    {{0, 0, 7}, {0, 3, 300}, 2, 1, 33, false},            // no queries; several key blocks
    {{0, 600}, {0, 600}, 1, 1, 20, true},                 // several tasks a sequence
    {{0, 530}, {0, 530}, 2, 2, 8, false},
    {{0, 9}, {0, 9}, 1, 1, 512, false}};

/// Terms of the longest sum: keys, head width, and (for dk, dv) queries of all heads of a group.
std::int64_t longest(const AttentionCase& c) {
  return c.width + c.q.back() * c.heads / c.key_heads + c.k.back();
}

TEST_P(Attention, Forward) {
  for (const auto& c : attention_cases) {
    SCOPED_TRACE(fmt::format("{} queries {} keys width {}", c.q.back(), c.k.back(), c.width));
    const Shape q_shape{c.q.back(), c.heads, c.width}, k_shape{c.k.back(), c.key_heads, c.width};
    const Tensor q = random(q_shape), k = random(k_shape), v = random(k_shape);
    const Tensor o = blank(q_shape), z = blank(q_shape),
                 lse = blank(DType::f32, {c.q.back(), c.heads});
    const ops::AttentionParams p{static_cast<float>(1 / std::sqrt(c.width)), c.causal};
    run({o, z, lse}, [&](Exec& exec) {
      ops::attention(exec, o, lse, q, k, v, offsets(c.q), offsets(c.k), p);
      ops::attention(exec, z, {}, q, k, v, offsets(c.q), offsets(c.k), p);
    });
    const auto want = reference::attention(values(q), values(k), values(v), c.q, c.k, p);
    expect_close("o", o, want.o, {type(), longest(c)}, of_rounding(want.o_noise));
    expect_close("z", z, want.o, {type(), longest(c)}, of_rounding(want.o_noise));
    for (std::int64_t i = 0; i < lse.numel(); ++i) {
      const double got = lse.as<float>()[i];
      if (std::isinf(want.lse[i])) continue;  // a sequence without keys: not used
      EXPECT_NEAR(got, want.lse[i], 8 * roundoff(DType::f32) * std::sqrt(longest(c)) * 8);
    }
  }
}

struct PositionCase {
  Offsets q, k;
  std::int64_t heads, key_heads, width;
  bool causal;
  std::int64_t window;
  float softcap;
  std::int64_t reach;  // of the relative bias; < 0: none
};
const PositionCase position_cases[] = {
    {{0, 60, 61}, {0, 60, 61}, 4, 2, 16, true, 7, 0, -1},    // window shorter than a tile
    {{0, 700}, {0, 700}, 1, 1, 24, true, 300, 0, -1},        // window over several key blocks
    {{0, 90, 400}, {0, 90, 400}, 2, 2, 8, false, 5, 0, -1},  // a window on both sides
    {{0, 33}, {0, 33}, 2, 1, 16, true, 0, 0, -1},            // only itself
    {{0, 50}, {0, 50}, 2, 2, 40, true, -1, 3, -1},           // softcap
    {{0, 70, 70, 400}, {0, 70, 70, 400}, 3, 3, 8, false, -1, 0, 128},  // relative bias
    {{0, 40}, {0, 40}, 2, 1, 8, true, 9, 2, 4},                        // all of them
    {{0, 1, 4}, {0, 300, 310}, 2, 1, 16, true, -1, 0, -1},  // queries are the last positions
    {{0, 1, 4}, {0, 300, 310}, 2, 1, 16, true, 50, 5, 20}};

TEST_P(Attention, ByPosition) {
  for (const auto& c : position_cases) {
    SCOPED_TRACE(fmt::format("{} queries {} keys window {} softcap {} reach {}", c.q.back(),
                             c.k.back(), c.window, c.softcap, c.reach));
    const Shape q_shape{c.q.back(), c.heads, c.width}, k_shape{c.k.back(), c.key_heads, c.width};
    const Tensor q = random(q_shape, 2), k = random(k_shape, 2), v = random(k_shape);
    const Tensor o = blank(q_shape);
    ops::AttentionParams p{
        static_cast<float>(1 / std::sqrt(c.width)), c.causal, c.window, c.softcap, {}};
    if (c.reach >= 0) p.relative_bias = random(DType::f32, {c.heads, 2 * c.reach + 1}, 3);
    run({o},
        [&](Exec& exec) { ops::attention(exec, o, {}, q, k, v, offsets(c.q), offsets(c.k), p); });
    const auto want = reference::attention(values(q), values(k), values(v), c.q, c.k, p);
    // Scores reach 4 sqrt(width) in size: their rounding shifts probabilities by as much.
    expect_close("o", o, want.o, {type(), 16 * (c.width + c.k.back())}, of_rounding(want.o_noise));
  }
}

TEST_P(Attention, PositionsThatDoNotFitAreRefused) {
  Exec exec(GetParam().device, 1);
  const Tensor q = random({4, 2, 8}), k = random({3, 2, 8}), o = blank({4, 2, 8});
  const auto forward = [&](const ops::AttentionParams& p) {
    ops::attention(exec, o, {}, q, k, k, offsets({0, 4}), offsets({0, 3}), p);
  };
  EXPECT_NO_THROW(forward({}));
  EXPECT_THROW(forward({1.0f, true}), Error);
  EXPECT_THROW(forward({1.0f, false, 2}), Error);
  const Tensor lse = blank(DType::f32, {4, 2});
  const auto backward = [&](const ops::AttentionParams& p) {
    ops::attention_backward(exec, o, o, o, q, q, q, q, q, lse, offsets({0, 4}), offsets({0, 4}), p);
  };
  EXPECT_THROW(backward({1.0f, true, 2}), Error);
  EXPECT_THROW(backward({1.0f, true, -1, 50.0f}), Error);
  EXPECT_THROW(backward({1.0f, false, -1, 0, random(DType::f32, {2, 3})}), Error);
  EXPECT_THROW(ops::attention(exec, o, {}, q, q, q, offsets({0, 4}), offsets({0, 4}),
                              {1.0f, false, -1, 0, random(DType::f32, {2, 4})}),
               Error);
}

TEST_P(Attention, Backward) {
  for (const auto& c : attention_cases) {
    SCOPED_TRACE(fmt::format("{} queries {} keys width {}", c.q.back(), c.k.back(), c.width));
    const Shape q_shape{c.q.back(), c.heads, c.width}, k_shape{c.k.back(), c.key_heads, c.width};
    const Tensor q = random(q_shape), k = random(k_shape), v = random(k_shape);
    const Tensor o = blank(q_shape), lse = blank(DType::f32, {c.q.back(), c.heads});
    const Tensor dout = random(q_shape), dq = blank(q_shape), dk = blank(k_shape),
                 dv = blank(k_shape);
    const ops::AttentionParams p{static_cast<float>(1 / std::sqrt(c.width)), c.causal};
    run({dq, dk, dv}, [&](Exec& exec) {
      ops::attention(exec, o, lse, q, k, v, offsets(c.q), offsets(c.k), p);
      ops::attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, offsets(c.q), offsets(c.k),
                              p);
    });
    const auto want =
        reference::attention_backward(values(dout), values(q), values(k), values(v), c.q, c.k, p);
    const Array dq_noise = both(want.dq_noise, of_rounding(want.dq_rounding));
    const Array dk_noise = both(want.dk_noise, of_rounding(want.dk_rounding));
    expect_close("dq", dq, want.dq, {type(), longest(c)}, dq_noise);
    expect_close("dk", dk, want.dk, {type(), longest(c)}, dk_noise);
    expect_close("dv", dv, want.dv, {type(), longest(c)}, of_rounding(want.dv_rounding));
  }
}

/// As captions come in a training step: their lengths where only the device reads them, rows behind
/// the last of them, and more keys announced than any has.
TEST_P(Attention, LengthsAndRowsOfNobody) {
  for (const auto& c : attention_cases) {
    if (c.causal || c.k.back() == 0) continue;
    SCOPED_TRACE(fmt::format("{} queries {} keys width {}", c.q.back(), c.k.back(), c.width));
    const std::int64_t rows = c.k.back() + 19;
    const Shape q_shape{c.q.back(), c.heads, c.width}, k_shape{rows, c.key_heads, c.width};
    const Tensor q = random(q_shape), k = random(k_shape), v = random(k_shape);
    const Tensor dout = random(q_shape), o = blank(q_shape), dq = blank(q_shape);
    const Tensor dk = blank(k_shape), dv = blank(k_shape);
    const Tensor lse = blank(DType::f32, {c.q.back(), c.heads});
    const Tensor k_offsets = visible(counts(c.k));
    const ops::AttentionParams p{.scale = static_cast<float>(1 / std::sqrt(c.width)),
                                 .longest_keys = 512};
    run({o, dq, dk, dv}, [&](Exec& exec) {
      ops::attention(exec, o, lse, q, k, v, offsets(c.q), k_offsets, p);
      ops::attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, offsets(c.q), k_offsets, p);
    });
    const Tensor own_k = k.rows(0, c.k.back()), own_v = v.rows(0, c.k.back());
    const auto forward = reference::attention(values(q), values(own_k), values(own_v), c.q, c.k, p);
    expect_close("o", o, forward.o, {type(), longest(c)}, of_rounding(forward.o_noise));
    const auto want = reference::attention_backward(values(dout), values(q), values(own_k),
                                                    values(own_v), c.q, c.k, p);
    expect_close("dq", dq, want.dq, {type(), longest(c)},
                 both(want.dq_noise, of_rounding(want.dq_rounding)));
    expect_close("dk", dk.rows(0, c.k.back()), want.dk, {type(), longest(c)},
                 both(want.dk_noise, of_rounding(want.dk_rounding)));
    expect_close("dv", dv.rows(0, c.k.back()), want.dv, {type(), longest(c)},
                 of_rounding(want.dv_rounding));
    for (const Tensor& gradient : {dk, dv})
      for (const double value : values(gradient.rows(c.k.back(), rows)).data) ASSERT_EQ(value, 0.0);
  }
}

/// As an encoder's pass is recorded: one tensor of offsets, where only the device reads it, with
/// texts without tokens behind the last, and rows behind those.
TEST_P(Attention, TextsWhoseLengthsTheDeviceReads) {
  std::vector<PositionCase> cases(std::begin(position_cases), std::end(position_cases));
  for (const auto& c : attention_cases)
    cases.push_back({c.q, c.k, c.heads, c.key_heads, c.width, c.causal, -1, 0, -1});
  for (const auto& c : cases) {
    if (c.q != c.k) continue;
    SCOPED_TRACE(fmt::format("{} tokens width {} window {} softcap {} reach {}", c.q.back(),
                             c.width, c.window, c.softcap, c.reach));
    const std::int64_t tokens = c.q.back(), rows = tokens + 19;
    const Shape q_shape{rows, c.heads, c.width}, k_shape{rows, c.key_heads, c.width};
    const Tensor q = random(q_shape, 2), k = random(k_shape, 2), v = random(k_shape);
    const Tensor o = blank(q_shape);
    Offsets padded = c.q;
    padded.insert(padded.end(), 3, tokens);
    const Tensor texts = visible(counts(padded));
    ops::AttentionParams p{
        static_cast<float>(1 / std::sqrt(c.width)), c.causal, c.window, c.softcap, {}, 700};
    if (c.reach >= 0) p.relative_bias = random(DType::f32, {c.heads, 2 * c.reach + 1}, 3);
    run({o}, [&](Exec& exec) { ops::attention(exec, o, {}, q, k, v, texts, texts, p); });
    const auto own = [&](const Tensor& t) { return values(t.rows(0, tokens)); };
    const auto want = reference::attention(own(q), own(k), own(v), c.q, c.q, p);
    expect_close("o", o.rows(0, tokens), want.o, {type(), 16 * (c.width + tokens)},
                 of_rounding(want.o_noise));
    for (const double value : values(o.rows(tokens, rows)).data) ASSERT_TRUE(std::isnan(value));
  }
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  const Tensor q = random({40, 1, 64}, 30), k = random({50, 1, 64}, 30), v = random({50, 1, 64});
  const Tensor o = blank({40, 1, 64});
  run({o}, [&](Exec& exec) {
    ops::attention(exec, o, {}, q, k, v, offsets({0, 40}), offsets({0, 50}), {0.125f, false});
  });
  for (const double value : values(o).data) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(Attention, WrongOffsetsAreRefused) {
  Exec exec(GetParam().device, 1);
  const Tensor q = random({4, 1, 8}), o = blank({4, 1, 8});
  for (const Offsets& bad : {Offsets{0, 5}, Offsets{1, 4}, Offsets{0, 3, 2, 4}, Offsets{0, 3}})
    EXPECT_THROW(ops::attention(exec, o, {}, q, q, q, offsets(bad), offsets(bad), {}), Error);
}

TEST_P(Attention, Rope) {
  Array frequencies({5});
  for (int i = 0; i < 5; ++i) frequencies[i] = std::pow(10000.0, -i / 5.0);
  const Tensor inv_freq = upload(DType::f32, frequencies);
  std::vector<std::int64_t> texts;  // of 3 and 77 tokens
  for (std::int64_t i = 0; i < 80; ++i) texts.push_back(i < 3 ? i : i - 3);
  for (const auto& at : {texts, {70, 3, 3, 76}}) {  // more tokens than positions, and fewer
    const Tensor x = random({static_cast<std::int64_t>(at.size()), 3, 10});
    const Array want = reference::rope(values(x), at, values(inv_freq));
    const Tensor there = visible(counts(at)), y = allocate(type(), x.shape);
    std::copy_n(x.data, x.bytes(), y.data);
    run({x, y}, [&](Exec& exec) {
      ops::rope(exec, x, integers(at), inv_freq);
      ops::rope(exec, y, there, inv_freq);
    });
    EXPECT_EQ(values(x).data, values(y).data) << "positions on the device";
    // The angle, up to 77, is rounded once in f32: 77 u absolute.
    expect_close("x", x, want, {type(), 77 * 77 / 64 + 2});
  }
}

struct PagedCase {
  std::vector<std::int64_t> lengths;
  std::int64_t heads, key_heads, width, window;
  float softcap;
};

/// Keys and values of all sequences laid end to end, and the same in pages that lie in any order.
class PagedAttention : public Attention {};
STRATA_INSTANTIATE(PagedAttention);

TEST_P(PagedAttention, IsAttentionOfTheNewestPosition) {
  for (const auto& c : {PagedCase{{1}, 1, 1, 8, -1, 0},
                        {{64, 65, 200}, 4, 2, 16, -1, 0},
                        {{3, 130, 1, 64, 300}, 6, 2, 20, 70, 0},
                        {{200, 10}, 2, 2, 33, 63, 2},
                        {{129}, 8, 1, 128, 0, 5}}) {
    SCOPED_TRACE(fmt::format("{} texts width {} window {}", c.lengths.size(), c.width, c.window));
    const auto count = static_cast<std::int64_t>(c.lengths.size());
    constexpr std::int64_t pages = 24, columns = 6;
    Offsets q_at{0}, k_at{0};
    std::vector<std::int64_t> slots, table(count * columns, -1);
    std::int64_t taken = 0;
    for (std::int64_t b = 0; b < count; ++b) {
      const std::int64_t length = c.lengths[b];
      q_at.push_back(b + 1);
      k_at.push_back(k_at.back() + length);
      for (std::int64_t i = 0; i < length; ++i) {
        std::int64_t& page = table[b * columns + i / ops::page_positions];
        const bool hidden = c.window >= 0 && (i / ops::page_positions + 1) * ops::page_positions <=
                                                 length - 1 - c.window;  // its page is not there
        if (!hidden && page < 0) page = taken++ * 7 % pages;
        slots.push_back(hidden ? -1 : page * ops::page_positions + i % ops::page_positions);
      }
    }
    ASSERT_LE(taken, pages);
    const Tensor q = random({count, c.heads, c.width}, 2), o = blank(q.shape);
    const Tensor k = random({k_at.back(), c.key_heads, c.width}, 2), v = random(k.shape);
    const Tensor keys = blank({pages, c.key_heads, c.width, ops::page_positions});
    const Tensor stored = blank({pages, c.key_heads, ops::page_positions, c.width});
    const ops::AttentionParams p{
        static_cast<float>(1 / std::sqrt(c.width)), true, c.window, c.softcap, {}};
    run({o, keys, stored}, [&](Exec& exec) {
      ops::store_in_pages(exec, keys, stored, k, v, integers(slots));
      ops::attention_paged(exec, o, q, keys, stored, integers(table).reshape({count, columns}),
                           integers(c.lengths), p);
    });
    const auto want = reference::attention(values(q), values(k), values(v), q_at, k_at, p);
    expect_close("o", o, want.o, {type(), 16 * (c.width + k_at.back())});
  }
}

TEST_P(PagedAttention, PagesThatDoNotFitAreRefused) {
  Exec exec(GetParam().device, 1);
  const Tensor q = random({1, 2, 8}), o = blank({1, 2, 8});
  const Tensor keys = blank({2, 1, 8, 64}), values = blank({2, 1, 64, 8});
  const auto attend = [&](std::vector<std::int64_t> pages, std::int64_t length,
                          std::int64_t window) {
    const auto columns = static_cast<std::int64_t>(pages.size());
    ops::attention_paged(exec, o, q, keys, values, integers(pages).reshape({1, columns}),
                         integers({length}), {1.0f, true, window});
  };
  EXPECT_THROW(attend({0, 2}, 70, -1), Error);   // no such page
  EXPECT_THROW(attend({-1, 1}, 70, -1), Error);  // none
  EXPECT_THROW(attend({0}, 65, -1), Error);      // too few
  EXPECT_THROW(attend({0}, 0, -1), Error);
  const Tensor k = random({1, 1, 8});
  EXPECT_NO_THROW(attend({-1, 1}, 70, 3));  // hidden by the window
  EXPECT_NO_THROW(ops::store_in_pages(exec, keys, values, k, k, integers({127})));
  EXPECT_THROW(ops::store_in_pages(exec, keys, values, k, k, integers({128})), Error);
}

}  // namespace
}  // namespace strata
