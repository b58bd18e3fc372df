#include "model/kv_cache.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace strata {

namespace {

constexpr std::int64_t page = ops::page_positions;

std::int64_t pages_for(std::int64_t positions) {
  return (positions + page - 1) / page;
}

}  // namespace

KvCache::KvCache(const TextConfig& config, DType compute, std::int64_t texts)
    : key_heads_(config.kv_heads), head_width_(config.head_width), compute_(compute) {
  for (const std::int64_t width : config.windows) {
    const auto same = [&](const Window& window) { return window.width == width; };
    auto found = std::find_if(windows_.begin(), windows_.end(), same);
    if (found == windows_.end()) {
      windows_.push_back({width, {}, {}, 0, {}});
      windows_.back().pages.resize(static_cast<std::size_t>(texts));
      found = windows_.end() - 1;
    }
    layers_.push_back({static_cast<std::size_t>(found - windows_.begin()), found->layers.size()});
    found->layers.emplace_back();
  }
}

/// Half as many again; what the old ones hold stays.
void KvCache::add_pages(Exec& exec, Window& window) const {
  const std::int64_t before = window.count, after = before + std::max<std::int64_t>(8, before / 2);
  const auto extend = [&](Buffer& old, std::int64_t rows, std::int64_t columns) {
    Buffer larger(compute_, {after, key_heads_, rows, columns}, exec.device());
    if (before > 0)
      memory::copy(larger.tensor().data, exec.device(), old.tensor().data, exec.device(),
                   old.tensor().bytes());
    old = std::move(larger);
  };
  for (Memory& layer : window.layers) {
    extend(layer.keys, head_width_, page);
    extend(layer.values, page, head_width_);
  }
  for (std::int64_t i = after - 1; i >= before; --i) window.free.push_back(i);
  window.count = after;
}

void KvCache::grow(Exec& exec, std::int64_t text, std::int64_t length) {
  for (Window& window : windows_) {
    auto& pages = window.pages[static_cast<std::size_t>(text)];
    // The newest position sees `width` positions, its own the last.
    const std::int64_t hidden =
        window.width == 0 ? 0 : std::max<std::int64_t>(0, length - window.width) / page;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(hidden, std::ssize(pages)); ++i) {
      std::int64_t& behind = pages[static_cast<std::size_t>(i)];
      if (behind >= 0) window.free.push_back(std::exchange(behind, -1));
    }
    while (std::ssize(pages) < pages_for(length)) {
      if (std::ssize(pages) < hidden) {
        pages.push_back(-1);
        continue;
      }
      if (window.free.empty()) add_pages(exec, window);
      pages.push_back(window.free.back());
      window.free.pop_back();
    }
  }
}

void KvCache::release(std::int64_t text) {
  for (Window& window : windows_) {
    auto& pages = window.pages[static_cast<std::size_t>(text)];
    for (const std::int64_t taken : pages)
      if (taken >= 0) window.free.push_back(taken);
    pages.clear();
  }
}

KvCache::Rows KvCache::locate(std::span<const std::int64_t> texts,
                              std::span<const std::int64_t> positions, bool newest) const {
  const auto count = std::ssize(texts);
  Rows rows;
  rows.lengths = Buffer(DType::i64, {count});
  for (std::int64_t t = 0; t < count; ++t) rows.lengths.as<std::int64_t>()[t] = positions[t] + 1;
  for (const Window& window : windows_) {
    const auto pages_of = [&](std::int64_t t) -> const std::vector<std::int64_t>& {
      return window.pages[static_cast<std::size_t>(texts[t])];
    };
    Buffer slots(DType::i64, {count});
    std::int64_t longest = 0;
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t at = pages_of(t)[static_cast<std::size_t>(positions[t] / page)];
      slots.as<std::int64_t>()[t] = at < 0 ? -1 : at * page + positions[t] % page;
      longest = std::max<std::int64_t>(longest, std::ssize(pages_of(t)));
    }
    rows.slots.push_back(std::move(slots));
    if (!newest) continue;
    Buffer pages(DType::i64, {count, longest});
    std::fill_n(pages.as<std::int64_t>(), count * longest, -1);
    for (std::int64_t t = 0; t < count; ++t)
      std::copy(pages_of(t).begin(), pages_of(t).end(), pages.as<std::int64_t>() + t * longest);
    rows.pages.push_back(std::move(pages));
  }
  return rows;
}

void KvCache::store(Exec& exec, std::int64_t layer, Tensor k, Tensor v, const Rows& rows) const {
  const Place place = layers_[static_cast<std::size_t>(layer)];
  const Memory& memory = windows_[place.window].layers[place.layer];
  ops::store_in_pages(exec, memory.keys, memory.values, k, v, rows.slots[place.window]);
}

void KvCache::attend(Exec& exec, std::int64_t layer, Tensor o, Tensor q, const Rows& rows,
                     const ops::AttentionParams& params) const {
  const Place place = layers_[static_cast<std::size_t>(layer)];
  const Memory& memory = windows_[place.window].layers[place.layer];
  ops::attention_paged(exec, o, q, memory.keys, memory.values, rows.pages[place.window],
                       rows.lengths, params);
}

std::size_t KvCache::bytes() const {
  std::size_t sum = 0;
  for (const Window& window : windows_)
    for (const Memory& layer : window.layers)
      sum += layer.keys.tensor().bytes() + layer.values.tensor().bytes();
  return sum;
}

}  // namespace strata
