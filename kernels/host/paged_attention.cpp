// Attention of newest positions over pages of keys and values. A task is a sequence and a key head
// with the query heads that share it: sums never cross tasks.

#include <limits>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/host/softmax.hpp"

namespace strata::host {

namespace {

constexpr std::int64_t page = ops::page_positions;
static_assert(page % lane == 0);

/// to (rows, padded) f32 from rows of a (T,N,D) tensor, columns padded with zeros.
template <class T>
void widen_rows(float* to, std::int64_t padded, const T* from, std::int64_t pitch,
                std::int64_t width, std::int64_t rows, float factor = 1.0f) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = from + r * pitch;
    for (std::int64_t c = 0; c < width; ++c) to[r * padded + c] = to_float(row[c]) * factor;
    std::fill(to + r * padded + width, to + (r + 1) * padded, 0.0f);
  }
}

const Unit* units(const float* values) {
  return reinterpret_cast<const Unit*>(values);
}

template <class T>
struct Paged {
  std::int64_t heads, key_heads, width, padded, pages_a_row;
  ops::AttentionParams p;
  T* o;
  const T *q, *keys, *values;
  const std::int64_t *pages, *lengths;

  std::int64_t group() const { return heads / key_heads; }
  std::int64_t scratch_bytes() const {
    return 4 * (2 * page * padded + group() * (2 * padded + page + 2));
  }

  void task(std::int64_t b, std::int64_t key_head, float* scratch) const {
    const std::int64_t row = (b * heads + key_head * group()) * width;
    float* page_keys = scratch;
    float* page_values = page_keys + page * padded;
    Queries of{page_values + page * padded, group(), padded};
    widen_rows(of.scaled(), padded, q + row, width, width, group(), p.scale);
    std::fill_n(of.out(), group() * padded, 0.0f);
    std::fill_n(of.largest(), group(), -std::numeric_limits<float>::infinity());
    std::fill_n(of.sum(), group(), 0.0f);
    const std::int64_t length = lengths[b];
    const std::int64_t first = p.window < 0 ? 0 : std::max<std::int64_t>(0, length - 1 - p.window);
    for (std::int64_t at = first / page * page; at < length; at += page) {
      const std::int64_t block = pages[b * pages_a_row + at / page] * key_heads + key_head;
      const std::int64_t count = std::min(page, length - at);
      load_row(page_keys, keys + block * page * width, page * width);
      widen_rows(page_values, padded, values + block * page * width, width, width, count);
      std::fill(page_values + count * padded, page_values + round_up(count, lane) * padded, 0.0f);
      attend(of, page_keys, page_values, std::max<std::int64_t>(0, first - at), count);
    }
    for (std::int64_t r = 0; r < group(); ++r)
      for (std::int64_t c = 0; c < width; ++c)
        o[row + r * width + c] = from_float<T>(of.out()[r * padded + c] / of.sum()[r]);
  }

 private:
  /// The query heads of a task and their running softmax.
  struct Queries {
    float* memory;
    std::int64_t group, padded;
    float* scaled() const { return memory; }
    float* out() const { return memory + group * padded; }
    float* scores() const { return out() + group * padded; }
    float* largest() const { return scores() + group * page; }
    float* sum() const { return largest() + group; }
  };

  /// The places [begin, count) of one page. Keys after `count` are whatever lies in the page.
  void attend(const Queries& of, const float* page_keys, const float* page_values,
              std::int64_t begin, std::int64_t count) const {
    constexpr float unseen = -1e38f;  // its exponential is 0 beside the maximum's
    const std::int64_t places = round_up(count, lane);
    tile_product<float>(of.group, places, width, {units(of.scaled()), padded, 1}, units(page_keys),
                        page, of.scores(), page, 1.0f, false);
    for (std::int64_t r = 0; r < of.group; ++r) {
      float* row = of.scores() + r * page;
      std::fill(row + count, row + places, 0.0f);
      if (p.softcap != 0) cap_scores(row, count, p.softcap);
      std::fill_n(row, begin, unseen);
      const float largest = maximum(row, count, of.largest()[r]);
      const float shrink = of.sum()[r] == 0 ? 0.0f : portable::exp(of.largest()[r] - largest);
      of.sum()[r] = of.sum()[r] * shrink + exponentiate(row, count, places, largest);
      std::fill_n(row, begin, 0.0f);
      of.largest()[r] = largest;
      if (shrink != 1.0f)
        for (std::int64_t c = 0; c < padded; ++c) of.out()[r * padded + c] *= shrink;
    }
    tile_product<float>(of.group, padded, places, {units(of.scores()), page, 1}, units(page_values),
                        padded, of.out(), padded, 1.0f, true);
  }
};

}  // namespace

void HostBackend::store_in_pages(Exec& exec, Tensor keys, Tensor values, Tensor k, Tensor v,
                                 Tensor slots) {
  const std::int64_t key_heads = k.shape[1], width = k.shape[2];
  const auto* slot = slots.as<std::int64_t>();
  with_type(k.dtype, [&](auto type) {
    using T = decltype(type);
    T *to_keys = keys.as<T>(), *to_values = values.as<T>();
    const T *from_keys = k.as<T>(), *from_values = v.as<T>();
    for_rows(exec, k.shape[0], 4 * key_heads * width, [=](std::int64_t t) {
      if (slot[t] < 0) return;
      const std::int64_t place = slot[t] % page;
      for (std::int64_t head = 0; head < key_heads; ++head) {
        const std::int64_t from = (t * key_heads + head) * width;
        const std::int64_t block = (slot[t] / page * key_heads + head) * page * width;
        for (std::int64_t c = 0; c < width; ++c)
          to_keys[block + c * page + place] = from_keys[from + c];
        std::copy_n(from_values + from, width, to_values + block + place * width);
      }
    });
  });
}

void HostBackend::attention_paged(Exec& exec, Tensor o, Tensor q, Tensor keys, Tensor values,
                                  Tensor pages, Tensor lengths, ops::AttentionParams p) {
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t key_heads = keys.shape[1], width = q.shape[2];
    const Paged<T> paged{q.shape[1],
                         key_heads,
                         width,
                         round_up(width, lane),
                         pages.shape[1],
                         p,
                         o.as<T>(),
                         q.as<T>(),
                         keys.as<T>(),
                         values.as<T>(),
                         pages.as<std::int64_t>(),
                         lengths.as<std::int64_t>()};
    for_tasks_with_scratch(exec, q.shape[0] * key_heads, paged.scratch_bytes(),
                           [&](std::int64_t task, std::byte* memory) {
                             paged.task(task / key_heads, task % key_heads,
                                        reinterpret_cast<float*>(memory));
                           });
  });
}

}  // namespace strata::host
