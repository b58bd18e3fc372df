#pragma once
// Timing of whole work, on the host and on a GPU.

#include <algorithm>
#include <chrono>
#include <vector>

#include "train/random_work.hpp"
#include "train/setup.hpp"

namespace strata {

/// Seconds of each of `times` runs, after `warm` others. Every run is waited for.
template <class F>
std::vector<double> seconds_of_each(Exec& exec, int warm, int times, F work) {
  std::vector<double> seconds;
  for (int run = -warm; run < times; ++run) {
    exec.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    work();
    exec.synchronize();
    const auto end = std::chrono::steady_clock::now();
    if (run >= 0) seconds.push_back(std::chrono::duration<double>(end - begin).count());
  }
  return seconds;
}

/// Seconds of one of `times` runs in a row, the device not waited for in between.
template <class F>
double seconds_in_a_row(Exec& exec, int warm, int times, F work) {
  const auto all = [&] {
    for (int run = 0; run < times; ++run) work();
  };
  for (int run = 0; run < warm; ++run) work();
  return seconds_of_each(exec, 0, 1, all).front() / times;
}

inline double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace strata
