// Softmax attention on packed f32 tiles. Forward keeps a running maximum and sum over blocks of
// keys (Dao et al., FlashAttention, 2022); backward recomputes the probabilities from the saved
// log-sum-exp. A task is a head and some queries (forward) or a key head (backward): sums never
// cross tasks, so threads cannot change them.

#include <cmath>
#include <limits>
#include <utility>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/host/softmax.hpp"

namespace strata::host {

namespace {

constexpr std::int64_t panel = 64;       // keys packed together
constexpr std::int64_t key_block = 256;  // keys between two updates of the running maximum
static_assert(key_block <= longest_scores);
constexpr std::int64_t query_tile = 24;   // queries whose scores are in cache at once
constexpr std::int64_t query_task = 480;  // queries that share one packing of keys and values

/// One sequence and one head of the problem.
struct Span {
  std::int64_t q_begin, q_count, k_begin, k_count;
  /// The queries are the last of the positions that the keys have.
  std::int64_t first_position() const { return k_count - q_count; }
};

struct Layout {
  std::int64_t heads, key_heads, width, padded_width;
  const std::int64_t *q_offsets, *k_offsets;
  std::int64_t batch;

  Layout(const Tensor& q, const Tensor& k, const Tensor& q_off, const Tensor& k_off)
      : heads(q.shape[1]),
        key_heads(k.shape[1]),
        width(q.shape[2]),
        padded_width(round_up(width, lane)),
        q_offsets(q_off.as<std::int64_t>()),
        k_offsets(k_off.as<std::int64_t>()),
        batch(q_off.shape[0] - 1) {}

  Span span(std::int64_t b) const {
    return {q_offsets[b], q_offsets[b + 1] - q_offsets[b], k_offsets[b],
            k_offsets[b + 1] - k_offsets[b]};
  }
  std::int64_t longest_keys() const {
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < batch; ++b) longest = std::max(longest, span(b).k_count);
    return round_up(longest, panel);
  }
  std::int64_t longest_queries() const {
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < batch; ++b) longest = std::max(longest, span(b).q_count);
    return longest;
  }
};

/// Swaps, in each square of 2 `span` rows and columns, the upper right quarter with the lower left.
template <int span, int... i>
void exchange(detail::Vector* rows, std::integer_sequence<int, i...>) {
#pragma GCC unroll 16
  for (int r = 0; r < lane; ++r) {
    if (r & span) continue;
    const detail::Vector a = rows[r], b = rows[r + span];
    rows[r] = __builtin_shufflevector(a, b, (i & span ? lane + i - span : i)...);
    rows[r + span] = __builtin_shufflevector(a, b, (i & span ? lane + i : i + span)...);
  }
}

/// to (16,16) with rows `panel` apart = the transpose of 16 rows of 16, `pitch` apart.
template <class T>
void transpose_square(float* to, const T* from, std::int64_t pitch) {
  constexpr auto columns = std::make_integer_sequence<int, lane>();
  detail::Vector rows[lane];
#pragma GCC unroll 16
  for (int r = 0; r < lane; ++r)
    for (int c = 0; c < lane; ++c) rows[r][c] = to_float(from[r * pitch + c]);
  exchange<1>(rows, columns);
  exchange<2>(rows, columns);
  exchange<4>(rows, columns);
  exchange<8>(rows, columns);
#pragma GCC unroll 16
  for (int c = 0; c < lane; ++c) std::memcpy(to + c * panel, &rows[c], sizeof rows[c]);
}

/// to (panels, D, 64) f32: the transpose of each panel of 64 rows, rows past `rows` zero.
template <class T>
void pack_panels(float* to, const T* from, std::int64_t pitch, std::int64_t width,
                 std::int64_t rows) {
  const std::int64_t whole_columns = width / lane * lane;
  for (std::int64_t first = 0; first < rows; first += panel) {
    const std::int64_t count = std::min(panel, rows - first), whole_rows = count / lane * lane;
    if (count < panel) std::fill_n(to, width * panel, 0.0f);
    for (std::int64_t r = 0; r < whole_rows; r += lane)
      for (std::int64_t c = 0; c < whole_columns; c += lane)
        transpose_square(to + c * panel + r, from + (first + r) * pitch + c, pitch);
    for (std::int64_t r = 0; r < count; ++r) {
      const T* row = from + (first + r) * pitch;
      for (std::int64_t c = r < whole_rows ? whole_columns : 0; c < width; ++c)
        to[c * panel + r] = to_float(row[c]);
    }
    to += width * panel;
  }
}

/// scores (rows, key_block) = A (rows, width) times `keys` (whole lanes) packed keys from panel
/// `first_key` / 64.
void scores_of(float* scores, std::int64_t rows, const float* a, std::int64_t a_row,
               const float* panels, std::int64_t width, std::int64_t first_key, std::int64_t keys) {
  for (std::int64_t key = 0; key < keys; key += panel)
    tile_product(rows, std::min(panel, keys - key), width, {a, a_row, 1},
                 panels + (first_key + key) * width, panel, scores + key, key_block, false);
}

struct Range {
  std::int64_t begin, end;
};

/// Which keys of [0, keys) the queries at [first, last] of the sequence may see, one or all.
Range visible(const ops::AttentionParams& p, std::int64_t first, std::int64_t last,
              std::int64_t keys) {
  const std::int64_t end = p.causal ? last + 1 : p.window < 0 ? keys : last + p.window + 1;
  const std::int64_t begin = p.window < 0 ? 0 : first - p.window;
  return {std::clamp<std::int64_t>(begin, 0, keys), std::clamp<std::int64_t>(end, 0, keys)};
}

/// The part of a range that lies in a block of keys, counted from the block's first key.
Range within(Range range, std::int64_t first, std::int64_t keys) {
  return {std::clamp<std::int64_t>(range.begin - first, 0, keys),
          std::clamp<std::int64_t>(range.end - first, 0, keys)};
}

/// bias (2 reach + 1) by distance; row[i] is the score of the key at `distance` + i.
void add_bias(float* row, std::int64_t count, const float* bias, std::int64_t reach,
              std::int64_t distance) {
  for (std::int64_t i = 0; i < count; ++i)
    row[i] += bias[std::clamp(distance + i, -reach, reach) + reach];
}

/// The running softmax of a tile of queries.
struct Running {
  float largest[query_tile], sum[query_tile];
};

/// A block of scores: its keys, and where its queries stand among them.
struct Block {
  std::int64_t first_query, first_key, keys, all_keys;
  std::int64_t padded_keys() const { return round_up(keys, lane); }
};

/// One block of keys: scores -> probabilities, and the tile's output rescaled to the new maximum.
void soften_block(float* scores, float* out, std::int64_t padded_width, std::int64_t rows,
                  const Block& block, Running& running, const ops::AttentionParams& p) {
  constexpr float unseen = -1e38f;  // its exponential, 1e-38, is lost beside the maximum's 1
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * key_block;
    const std::int64_t query = block.first_query + r;
    const Range seen =
        within(visible(p, query, query, block.all_keys), block.first_key, block.keys);
    if (seen.begin >= seen.end) {
      std::fill_n(row, block.padded_keys(), 0.0f);
      continue;
    }
    std::fill_n(row, seen.begin, unseen);
    const float largest = maximum(row, seen.end, running.largest[r]);
    const float shrink = block.first_key == 0 ? 0.0f : portable::exp(running.largest[r] - largest);
    running.sum[r] =
        running.sum[r] * shrink + exponentiate(row, seen.end, block.padded_keys(), largest);
    std::fill_n(row, seen.begin, 0.0f);
    running.largest[r] = largest;
    if (shrink != 1.0f)
      for (std::int64_t c = 0; c < padded_width; ++c) out[r * padded_width + c] *= shrink;
  }
}

template <class T>
struct Forward {
  Layout at;
  ops::AttentionParams p;
  T* o;
  float* lse;
  const T *q, *k, *v;
  std::int64_t keys_capacity;
  const float* bias;  // (heads, 2 reach + 1) by distance, or none
  std::int64_t reach;

  std::int64_t scratch_bytes() const {
    return 4 *
           (2 * keys_capacity * at.padded_width + query_tile * (2 * at.padded_width + key_block));
  }

  void task(std::int64_t b, std::int64_t head, std::int64_t first, std::int64_t count,
            float* scratch) const {
    const Span span = at.span(b);
    const std::int64_t key_head = head / (at.heads / at.key_heads);
    const std::int64_t key_pitch = at.key_heads * at.width;
    const std::int64_t key_at = span.k_begin * key_pitch + key_head * at.width;
    float* panels = scratch;
    float* values = panels + keys_capacity * at.padded_width;
    float* tile = values + keys_capacity * at.padded_width;
    pack_panels(panels, k + key_at, key_pitch, at.width, span.k_count);
    pack_rows(values, at.padded_width, v + key_at, key_pitch, at.width, span.k_count);
    std::fill(values + span.k_count * at.padded_width,
              values + round_up(span.k_count, lane) * at.padded_width, 0.0f);
    for (std::int64_t query = first; query < first + count; query += query_tile) {
      const std::int64_t rows = std::min(query_tile, first + count - query);
      queries(span, head, query, rows, panels, values, tile);
    }
  }

 private:
  void shape_scores(float* scores, std::int64_t rows, std::int64_t head, const Block& block) const {
    if (p.softcap == 0 && !bias) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * key_block;
      if (p.softcap != 0) cap_scores(row, block.padded_keys(), p.softcap);
      if (bias)
        add_bias(row, block.padded_keys(), bias + head * (2 * reach + 1), reach,
                 block.first_key - block.first_query - r);
    }
  }

  /// Rows [query, query + rows) of a sequence.
  void queries(const Span& span, std::int64_t head, std::int64_t query, std::int64_t rows,
               const float* panels, const float* values, float* scratch) const {
    const std::int64_t pitch = at.heads * at.width, padded = at.padded_width;
    const std::int64_t row = (span.q_begin + query) * pitch + head * at.width;
    const std::int64_t stat = (span.q_begin + query) * at.heads + head;
    const std::int64_t keys = span.k_count, position = query + span.first_position();
    float* scaled = scratch;
    float* out = scaled + query_tile * padded;
    float* scores = out + query_tile * padded;
    pack_rows(scaled, padded, q + row, pitch, at.width, rows, p.scale);
    std::fill_n(out, rows * padded, 0.0f);
    Running running;
    std::fill_n(running.largest, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(running.sum, rows, 0.0f);
    const Range seen = visible(p, position, position + rows - 1, keys);
    for (std::int64_t key = seen.begin / panel * panel; key < seen.end; key += key_block) {
      const Block block{position, key, std::min(key_block, seen.end - key), keys};
      scores_of(scores, rows, scaled, padded, panels, at.width, key, block.padded_keys());
      shape_scores(scores, rows, head, block);
      soften_block(scores, out, padded, rows, block, running, p);
      tile_product(rows, padded, block.padded_keys(), {scores, key_block, 1}, values + key * padded,
                   padded, out, padded, true);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      const float inverse = keys == 0 ? 0.0f : 1.0f / running.sum[r];
      T* to = o + row + r * pitch;
      for (std::int64_t c = 0; c < at.width; ++c)
        to[c] = from_float<T>(out[r * padded + c] * inverse);
      if (lse) lse[stat + r * at.heads] = running.largest[r] + std::log(running.sum[r]);
    }
  }
};

template <class T>
struct Backward {
  Layout at;
  ops::AttentionParams p;
  T *dq, *dk, *dv;
  const T *dout, *q, *k, *v, *o;
  const float* lse;
  std::int64_t keys_capacity;

  std::int64_t scratch_bytes() const {
    return 4 * (5 * keys_capacity * at.padded_width +
                query_tile * (3 * at.padded_width + 2 * key_block));
  }

  /// All queries of all heads that share key head `key_head` in sequence b.
  void task(std::int64_t b, std::int64_t key_head, float* scratch) const {
    const Span span = at.span(b);
    const std::int64_t key_pitch = at.key_heads * at.width, size = keys_capacity * at.padded_width;
    const std::int64_t key_at = span.k_begin * key_pitch + key_head * at.width;
    const std::int64_t padded_keys = round_up(span.k_count, lane);
    const Packed packed{scratch, scratch + size, scratch + 2 * size, scratch + 3 * size,
                        scratch + 4 * size};
    pack_panels(packed.key_panels, k + key_at, key_pitch, at.width, span.k_count);
    pack_panels(packed.value_panels, v + key_at, key_pitch, at.width, span.k_count);
    pack_rows(packed.keys, at.padded_width, k + key_at, key_pitch, at.width, span.k_count);
    std::fill(packed.keys + span.k_count * at.padded_width,
              packed.keys + padded_keys * at.padded_width, 0.0f);
    std::fill_n(packed.dkeys, padded_keys * at.padded_width, 0.0f);
    std::fill_n(packed.dvalues, padded_keys * at.padded_width, 0.0f);
    const std::int64_t group = at.heads / at.key_heads;
    for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
      for (std::int64_t query = 0; query < span.q_count; query += query_tile)
        queries(span, head, query, std::min(query_tile, span.q_count - query), packed,
                scratch + 5 * size);
    for (std::int64_t key = 0; key < span.k_count; ++key) {
      store_row(dk + key_at + key * key_pitch, packed.dkeys + key * at.padded_width, at.width);
      store_row(dv + key_at + key * key_pitch, packed.dvalues + key * at.padded_width, at.width);
    }
  }

 private:
  struct Packed {
    float *key_panels, *value_panels, *keys, *dkeys, *dvalues;
  };

  void queries(const Span& span, std::int64_t head, std::int64_t query, std::int64_t rows,
               const Packed& packed, float* scratch) const {
    const std::int64_t pitch = at.heads * at.width, padded = at.padded_width;
    const std::int64_t row = (span.q_begin + query) * pitch + head * at.width;
    const float* logs = lse + (span.q_begin + query) * at.heads + head;
    float* scaled = scratch;
    float* gradient = scaled + query_tile * padded;
    float* dscaled = gradient + query_tile * padded;
    float* scores = dscaled + query_tile * padded;
    float* dscores = scores + query_tile * key_block;
    pack_rows(scaled, padded, q + row, pitch, at.width, rows, p.scale);
    pack_rows(gradient, padded, dout + row, pitch, at.width, rows);
    std::fill_n(dscaled, rows * padded, 0.0f);
    float correction[query_tile];  // dout . o
    for (std::int64_t r = 0; r < rows; ++r) {
      correction[r] = 0;
      for (std::int64_t c = 0; c < at.width; ++c)
        correction[r] += gradient[r * padded + c] * to_float(o[row + r * pitch + c]);
    }
    const std::int64_t position = query + span.first_position();
    const std::int64_t end = visible(p, position, position + rows - 1, span.k_count).end;
    for (std::int64_t key = 0; key < end; key += key_block) {
      const std::int64_t count = std::min(key_block, span.k_count - key);
      const std::int64_t keys = round_up(count, lane);
      scores_of(scores, rows, scaled, padded, packed.key_panels, at.width, key, keys);
      scores_of(dscores, rows, gradient, padded, packed.value_panels, at.width, key, keys);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* probability = scores + r * key_block;
        float* d = dscores + r * key_block;
        const Range seen = visible(p, position + r, position + r, span.k_count);
        exponentiate(probability, within(seen, key, count).end, keys, logs[r * at.heads]);
        for (std::int64_t i = 0; i < keys; ++i) d[i] = probability[i] * (d[i] - correction[r]);
      }
      tile_product(keys, padded, rows, {scores, 1, key_block}, gradient, padded,
                   packed.dvalues + key * padded, padded, true);
      tile_product(keys, padded, rows, {dscores, 1, key_block}, scaled, padded,
                   packed.dkeys + key * padded, padded, true);
      tile_product(rows, padded, keys, {dscores, key_block, 1}, packed.keys + key * padded, padded,
                   dscaled, padded, true);
    }
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < at.width; ++c)
        dq[row + r * pitch + c] = from_float<T>(dscaled[r * padded + c] * p.scale);
  }
};

}  // namespace

void HostBackend::attention(Exec& exec, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v,
                            Tensor q_offsets, Tensor k_offsets, ops::AttentionParams p) {
  const Layout at(q, k, q_offsets, k_offsets);
  const std::int64_t chunks = (at.longest_queries() + query_task - 1) / query_task;
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const Tensor& bias = p.relative_bias;
    const Forward<T> forward{at,
                             p,
                             o.as<T>(),
                             lse ? lse.as<float>() : nullptr,
                             q.as<T>(),
                             k.as<T>(),
                             v.as<T>(),
                             at.longest_keys(),
                             bias ? bias.as<float>() : nullptr,
                             bias ? bias.shape[1] / 2 : 0};
    for_tasks_with_scratch(exec, at.batch * at.heads * chunks, forward.scratch_bytes(),
                           [&](std::int64_t task, std::byte* memory) {
                             auto* scratch = reinterpret_cast<float*>(memory);
                             const std::int64_t b = task / (at.heads * chunks);
                             const std::int64_t first = task % chunks * query_task;
                             const std::int64_t left = at.span(b).q_count - first;
                             if (left > 0)
                               forward.task(b, task / chunks % at.heads, first,
                                            std::min(left, query_task), scratch);
                           });
  });
}

void HostBackend::attention_backward(Exec& exec, Tensor dq, Tensor dk, Tensor dv, Tensor dout,
                                     Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse,
                                     Tensor q_offsets, Tensor k_offsets, ops::AttentionParams p) {
  const Layout at(q, k, q_offsets, k_offsets);
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const Backward<T> backward{
        at,        p,         dq.as<T>(), dk.as<T>(), dv.as<T>(),      dout.as<T>(),
        q.as<T>(), k.as<T>(), v.as<T>(),  o.as<T>(),  lse.as<float>(), at.longest_keys()};
    for_tasks_with_scratch(exec, at.batch * at.key_heads, backward.scratch_bytes(),
                           [&](std::int64_t task, std::byte* memory) {
                             auto* scratch = reinterpret_cast<float*>(memory);
                             backward.task(task / at.key_heads, task % at.key_heads, scratch);
                           });
  });
}

}  // namespace strata::host
