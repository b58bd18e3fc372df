// Softmax attention on packed tiles of the inputs' type, with sums and softmax in f32. Forward
// keeps a running maximum and sum over blocks of keys (Dao et al., FlashAttention, 2022); backward
// recomputes the probabilities from the saved log-sum-exp. A task is a head and some queries
// (forward) or a key head (backward): sums never cross tasks, so threads cannot change them.

#include <cmath>
#include <limits>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/host/softmax.hpp"
#include "kernels/host/tile_packing.hpp"

namespace strata::host {

namespace {

// Keys whose scores are in cache at once: forward updates the running maximum less often with more
// of them, backward has two arrays of scores.
constexpr std::int64_t forward_keys = 256, backward_keys = 128;
constexpr std::int64_t query_tile = 48;   // queries whose scores are in cache at once
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

/// scores (rows, pitch) = factor A (rows, depth) times `keys` (whole lanes) packed keys from
/// panel `first_key` / 64.
template <std::int64_t pitch, class T>
void scores_of(float* scores, std::int64_t rows, const Unit* a, const Unit* panels,
               std::int64_t depth, std::int64_t first_key, std::int64_t keys, float factor) {
  for (std::int64_t key = 0; key < keys; key += panel)
    tile_product<T>(rows, std::min(panel, keys - key), depth, {a, depth, 1},
                    panels + (first_key + key) * depth, panel, scores + key, pitch, factor, false);
}

/// Rows of scores (rows, pitch) as a left operand that sums over keys: themselves, or rounded
/// into `to`.
template <std::int64_t pitch, class T>
TileView over_keys(Unit* to, const float* scores, std::int64_t rows, std::int64_t keys) {
  if constexpr (unit_values<T> == 1) {
    return {reinterpret_cast<const Unit*>(scores), pitch, 1};
  } else {
    constexpr std::int64_t units = pitch / unit_values<T>;
    for (std::int64_t r = 0; r < rows; ++r)
      store_row(reinterpret_cast<T*>(to + r * units), scores + r * pitch, keys);
    return {to, units, 1};
  }
}

/// Their transpose, which sums over rows.
template <std::int64_t pitch, class T>
TileView over_rows(Unit* to, const float* scores, std::int64_t rows, std::int64_t keys) {
  if constexpr (unit_values<T> == 1) {
    return {reinterpret_cast<const Unit*>(scores), 1, pitch};
  } else {
    for (std::int64_t r = 0; r < rows; r += 2) {
      const float* first = scores + r * pitch;
      store_pairs(to + r / 2 * pitch, first, r + 1 < rows ? first + pitch : nullptr, keys);
    }
    return {to, 1, pitch};
  }
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
    float* row = scores + r * forward_keys;
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

  std::int64_t depth() const { return units_of<T>(at.width); }
  std::int64_t scratch_bytes() const {
    const std::int64_t padded = at.padded_width, paired = padded / unit_values<T>;
    return 4 * (keys_capacity * (depth() + paired) +
                query_tile * (depth() + padded + 2 * forward_keys));
  }

  void task(std::int64_t b, std::int64_t head, std::int64_t first, std::int64_t count,
            Unit* scratch) const {
    const Span span = at.span(b);
    const std::int64_t key_head = head / (at.heads / at.key_heads);
    const std::int64_t key_pitch = at.key_heads * at.width;
    const std::int64_t key_at = span.k_begin * key_pitch + key_head * at.width;
    const std::int64_t value_units = units_of<T>(span.k_count);
    Unit* panels = scratch;
    Unit* values = panels + keys_capacity * depth();
    Unit* tile = values + keys_capacity / unit_values<T> * at.padded_width;
    pack_panels(panels, k + key_at, key_pitch, at.width, span.k_count);
    pack_row_units(values, at.padded_width, v + key_at, key_pitch, at.width, span.k_count);
    std::fill(values + value_units * at.padded_width,
              values + units_of<T>(round_up(span.k_count, lane)) * at.padded_width, Unit{0});
    for (std::int64_t query = first; query < first + count; query += query_tile) {
      const std::int64_t rows = std::min(query_tile, first + count - query);
      queries(span, head, query, rows, panels, values, tile);
    }
  }

 private:
  void shape_scores(float* scores, std::int64_t rows, std::int64_t head, const Block& block) const {
    if (p.softcap == 0 && !bias) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * forward_keys;
      if (p.softcap != 0) cap_scores(row, block.padded_keys(), p.softcap);
      if (bias)
        add_bias(row, block.padded_keys(), bias + head * (2 * reach + 1), reach,
                 block.first_key - block.first_query - r);
    }
  }

  /// Rows [query, query + rows) of a sequence.
  void queries(const Span& span, std::int64_t head, std::int64_t query, std::int64_t rows,
               const Unit* panels, const Unit* values, Unit* scratch) const {
    const std::int64_t pitch = at.heads * at.width, padded = at.padded_width;
    const std::int64_t row = (span.q_begin + query) * pitch + head * at.width;
    const std::int64_t stat = (span.q_begin + query) * at.heads + head;
    const std::int64_t keys = span.k_count, position = query + span.first_position();
    Unit* tile = scratch;
    auto* out = reinterpret_cast<float*>(tile + query_tile * depth());
    float* scores = out + query_tile * padded;
    auto* rounded = reinterpret_cast<Unit*>(scores + query_tile * forward_keys);
    pack_rows(tile, q + row, pitch, at.width, rows);
    std::fill_n(out, rows * padded, 0.0f);
    Running running;
    std::fill_n(running.largest, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(running.sum, rows, 0.0f);
    const Range seen = visible(p, position, position + rows - 1, keys);
    for (std::int64_t key = seen.begin / panel * panel; key < seen.end; key += forward_keys) {
      const Block block{position, key, std::min(forward_keys, seen.end - key), keys};
      scores_of<forward_keys, T>(scores, rows, tile, panels, depth(), key, block.padded_keys(),
                                 p.scale);
      shape_scores(scores, rows, head, block);
      soften_block(scores, out, padded, rows, block, running, p);
      tile_product<T>(rows, padded, units_of<T>(block.padded_keys()),
                      over_keys<forward_keys, T>(rounded, scores, rows, block.padded_keys()),
                      values + key / unit_values<T> * padded, padded, out, padded, 1.0f, true);
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

  std::int64_t depth() const { return units_of<T>(at.width); }
  std::int64_t scratch_bytes() const {
    const std::int64_t padded = at.padded_width, paired = padded / unit_values<T>;
    return 4 * (keys_capacity * (2 * depth() + paired + 2 * padded) +
                query_tile * (2 * depth() + 2 * paired + padded + 3 * backward_keys));
  }

  /// All queries of all heads that share key head `key_head` in sequence b.
  void task(std::int64_t b, std::int64_t key_head, Unit* scratch) const {
    const Span span = at.span(b);
    const std::int64_t key_pitch = at.key_heads * at.width;
    const std::int64_t key_at = span.k_begin * key_pitch + key_head * at.width;
    const std::int64_t padded_keys = round_up(span.k_count, lane), padded = at.padded_width;
    Packed packed;
    packed.key_panels = scratch;
    packed.value_panels = packed.key_panels + keys_capacity * depth();
    packed.keys = packed.value_panels + keys_capacity * depth();
    packed.dkeys = reinterpret_cast<float*>(packed.keys + keys_capacity / unit_values<T> * padded);
    packed.dvalues = packed.dkeys + keys_capacity * padded;
    auto* tiles = reinterpret_cast<Unit*>(packed.dvalues + keys_capacity * padded);
    pack_panels(packed.key_panels, k + key_at, key_pitch, at.width, span.k_count);
    pack_panels(packed.value_panels, v + key_at, key_pitch, at.width, span.k_count);
    pack_row_units(packed.keys, padded, k + key_at, key_pitch, at.width, span.k_count);
    std::fill(packed.keys + units_of<T>(span.k_count) * padded,
              packed.keys + units_of<T>(padded_keys) * padded, Unit{0});
    std::fill_n(packed.dkeys, padded_keys * padded, 0.0f);
    std::fill_n(packed.dvalues, padded_keys * padded, 0.0f);
    const std::int64_t group = at.heads / at.key_heads;
    for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
      for (std::int64_t query = 0; query < span.q_count; query += query_tile)
        queries(span, head, query, std::min(query_tile, span.q_count - query), packed, tiles);
    for (std::int64_t key = 0; key < span.k_count; ++key) {
      store_row(dk + key_at + key * key_pitch, packed.dkeys + key * at.padded_width, at.width);
      store_row(dv + key_at + key * key_pitch, packed.dvalues + key * at.padded_width, at.width);
    }
  }

 private:
  struct Packed {
    Unit *key_panels, *value_panels;  // right operands that sum over the width
    Unit* keys;                       // and over keys
    float *dkeys, *dvalues;           // (keys, padded width)
  };

  void queries(const Span& span, std::int64_t head, std::int64_t query, std::int64_t rows,
               const Packed& packed, Unit* scratch) const {
    const std::int64_t pitch = at.heads * at.width, padded = at.padded_width;
    const std::int64_t paired = query_tile / unit_values<T> * padded, width = depth();
    const std::int64_t row = (span.q_begin + query) * pitch + head * at.width;
    const float* logs = lse + (span.q_begin + query) * at.heads + head;
    Unit* tile = scratch;  // q and dout, by row and by unit of rows
    Unit* gradient = tile + query_tile * width;
    Unit* tile_units = gradient + query_tile * width;
    Unit* gradient_units = tile_units + paired;
    auto* dtile = reinterpret_cast<float*>(gradient_units + paired);
    float* scores = dtile + query_tile * padded;
    float* dscores = scores + query_tile * backward_keys;
    auto* rounded = reinterpret_cast<Unit*>(dscores + query_tile * backward_keys);
    pack_rows(tile, q + row, pitch, at.width, rows);
    pack_rows(gradient, dout + row, pitch, at.width, rows);
    pack_row_units(tile_units, padded, q + row, pitch, at.width, rows);
    pack_row_units(gradient_units, padded, dout + row, pitch, at.width, rows);
    std::fill_n(dtile, rows * padded, 0.0f);
    float correction[query_tile];  // dout . o
    for (std::int64_t r = 0; r < rows; ++r) {
      const T *g = dout + row + r * pitch, *y = o + row + r * pitch;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < at.width; ++c) sum += to_float(g[c]) * to_float(y[c]);
      correction[r] = sum;
    }
    const std::int64_t position = query + span.first_position();
    const std::int64_t end = visible(p, position, position + rows - 1, span.k_count).end;
    for (std::int64_t key = 0; key < end; key += backward_keys) {
      const std::int64_t count = std::min(backward_keys, span.k_count - key);
      const std::int64_t keys = round_up(count, lane);
      scores_of<backward_keys, T>(scores, rows, tile, packed.key_panels, width, key, keys, p.scale);
      scores_of<backward_keys, T>(dscores, rows, gradient, packed.value_panels, width, key, keys,
                                  1.0f);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* probability = scores + r * backward_keys;
        float* d = dscores + r * backward_keys;
        const Range seen = visible(p, position + r, position + r, span.k_count);
        exponentiate(probability, within(seen, key, count).end, keys, logs[r * at.heads]);
        for (std::int64_t i = 0; i < keys; ++i) d[i] = probability[i] * (d[i] - correction[r]);
      }
      const std::int64_t row_units = units_of<T>(rows);
      tile_product<T>(keys, padded, row_units,
                      over_rows<backward_keys, T>(rounded, scores, rows, keys), gradient_units,
                      padded, packed.dvalues + key * padded, padded, 1.0f, true);
      tile_product<T>(keys, padded, row_units,
                      over_rows<backward_keys, T>(rounded, dscores, rows, keys), tile_units, padded,
                      packed.dkeys + key * padded, padded, p.scale, true);
      tile_product<T>(rows, padded, units_of<T>(keys),
                      over_keys<backward_keys, T>(rounded, dscores, rows, keys),
                      packed.keys + key / unit_values<T> * padded, padded, dtile, padded, p.scale,
                      true);
    }
    for (std::int64_t r = 0; r < rows; ++r)
      store_row(dq + row + r * pitch, dtile + r * padded, at.width);
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
                             auto* scratch = reinterpret_cast<Unit*>(memory);
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
                             auto* scratch = reinterpret_cast<Unit*>(memory);
                             backward.task(task / at.key_heads, task % at.key_heads, scratch);
                           });
  });
}

}  // namespace strata::host
