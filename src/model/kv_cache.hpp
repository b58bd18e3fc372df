#pragma once
// Keys and values of texts that grow, in pages (ops::attention_paged).

#include <cstdint>
#include <span>
#include <vector>

#include "model/text_config.hpp"

namespace strata {

/// Texts are numbered 0..texts-1. Pages are shared by all texts, taken as they grow and given back
/// when they end or when no window reaches them any more; layers of one window share the page
/// numbers, each with memory of its own.
class KvCache {
 public:
  KvCache(const TextConfig&, DType compute, std::int64_t texts);

  /// Text `text` has `length` positions from now on: as many as before or more.
  void grow(Exec&, std::int64_t text, std::int64_t length);
  /// The text has ended: its number may begin another one.
  void release(std::int64_t text);

  /// Where the rows of one pass lie, for each window: made once, used by every layer.
  struct Rows {
    std::vector<Buffer> slots;  // (T) i64: ops::store_in_pages
    std::vector<Buffer> pages;  // (T, M) i64: ops::attention_paged, when every row is a text's
                                // newest
    Buffer lengths;             // (T) i64: the row's position and those before it
  };
  /// Row t is position positions[t] of text texts[t]. newest: each row is the last of its text.
  Rows locate(std::span<const std::int64_t> texts, std::span<const std::int64_t> positions,
              bool newest) const;
  void store(Exec&, std::int64_t layer, Tensor k, Tensor v, const Rows&) const;
  void attend(Exec&, std::int64_t layer, Tensor o, Tensor q, const Rows&,
              const ops::AttentionParams&) const;
  /// Bytes of all pages.
  std::size_t bytes() const;

 private:
  struct Memory {
    Buffer keys, values;
  };
  struct Window {
    std::int64_t width;                            // 0: none
    std::vector<std::vector<std::int64_t>> pages;  // of each text; -1: behind the window
    std::vector<std::int64_t> free;
    std::int64_t count = 0;      // pages that there are
    std::vector<Memory> layers;  // those with this window
  };
  struct Place {
    std::size_t window, layer;
  };

  void add_pages(Exec&, Window&) const;

  std::int64_t key_heads_, head_width_;
  DType compute_;
  std::vector<Window> windows_;
  std::vector<Place> layers_;  // where layer i's memory is
};

}  // namespace strata
