#pragma once
// The one way in which host kernels use threads: independent rows, plain loops inside a row. What a
// row computes never depends on how rows are dealt to threads, so results do not depend on it
// either.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/exec.hpp"

namespace strata::host {

/// A borrowed callable (begin, end) over a block of rows.
class RowBlock {
 public:
  template <class F>
  explicit RowBlock(F& f)
      : object_(&f), call_([](void* object, std::int64_t begin, std::int64_t end) {
          (*static_cast<F*>(object))(begin, end);
        }) {}
  void operator()(std::int64_t begin, std::int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, std::int64_t);
};

/// Runs body on [0, rows) in blocks of `grain` rows, on at most exec.threads() threads.
void launch(Exec& exec, std::int64_t rows, std::int64_t grain, RowBlock body);

/// Rows of `width` elements that make a block worth a thread's while.
inline std::int64_t grain_of(std::int64_t width) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width));
}

/// f(row) for each row; `width` is the work in a row, in elements.
template <class F>
void for_rows(Exec& exec, std::int64_t rows, std::int64_t width, F f) {
  auto block = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) f(row);
  };
  launch(exec, rows, grain_of(width), RowBlock(block));
}

/// f(begin, end) over the elements of flat arrays.
template <class F>
void for_elements(Exec& exec, std::int64_t count, F f) {
  launch(exec, count, 16384, RowBlock(f));
}

/// f(index) for each of a few heavy tasks.
template <class F>
void for_tasks(Exec& exec, std::int64_t count, F f) {
  for_rows(exec, count, 1 << 20, f);
}

/// f(task, scratch) for each task, with `bytes` of arena memory that is the running thread's own.
template <class F>
void for_tasks_with_scratch(Exec& exec, std::int64_t tasks, std::int64_t bytes, F f) {
  const std::int64_t slots = std::min<std::int64_t>(exec.threads(), tasks);
  if (slots == 0) return;
  const std::int64_t size = (bytes + 63) / 64 * 64;
  const ArenaScope scope(exec.arena);
  std::byte* scratch = exec.empty(DType::u8, {slots, size}).data;
  for_tasks(exec, slots, [=](std::int64_t slot) {
    for (std::int64_t task = slot; task < tasks; task += slots) f(task, scratch + slot * size);
  });
}

/// Outputs of a layer that make one task of its weight gradient: near 64, in an even number of
/// tasks of about the same size, because most ranks have an even number of threads (320 outputs on
/// two: four tasks of 80 take 5/6 of the time of five of 64). Which sums run where follows from the
/// shape alone, so threads cannot change the bits.
constexpr std::int64_t slice_width(std::int64_t outputs) {
  const std::int64_t tasks = std::max<std::int64_t>(2, outputs / 128 * 2);
  return (outputs + tasks * 16 - 1) / (tasks * 16) * 16;
}

}  // namespace strata::host
