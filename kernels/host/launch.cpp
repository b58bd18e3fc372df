#include "kernels/host/launch.hpp"

#include <omp.h>

#include <Kokkos_Core.hpp>
#include <atomic>
#include <exception>
#include <mutex>

#include "kernels/backend.hpp"

namespace strata::host {

namespace {

using Space = Kokkos::DefaultHostExecutionSpace;

/// Once per process. Kokkos is never finalised: no view of it outlives a call, and an Exec may live
/// until the process ends.
void ensure_kokkos() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (!Kokkos::is_initialized()) Kokkos::initialize();
  });
}

}  // namespace

void launch(Exec& exec, std::int64_t rows, std::int64_t grain, RowBlock body) {
  if (rows <= 0) return;
  ensure_kokkos();
  const std::int64_t blocks = (rows + grain - 1) / grain;
  const auto run = [=](std::int64_t first, std::int64_t last) {
    Kokkos::parallel_for(
        Kokkos::RangePolicy<Space, Kokkos::IndexType<std::int64_t>>(first, last),
        [=](std::int64_t block) { body(block * grain, std::min(rows, (block + 1) * grain)); });
  };
  // A threaded host space divides the range itself; a serial one gets a range for each thread.
  const auto threads = static_cast<int>(std::min<std::int64_t>(exec.threads(), blocks));
  if (threads == 1 || Space().concurrency() > 1) {
    run(0, blocks);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int thread = 0; thread < threads; ++thread)
    run(blocks * thread / threads, blocks * (thread + 1) / threads);
}

void run_team(int threads, std::int64_t count,
              const std::function<void(int thread, std::int64_t index)>& task) {
  ensure_kokkos();
  std::atomic<std::int64_t> next = 0;
  std::exception_ptr failure;
  std::once_flag failed;
#pragma omp parallel num_threads(threads)
  try {
    for (std::int64_t index = next++; index < count; index = next++)
      task(omp_get_thread_num(), index);
  } catch (...) {
    next = count;
    std::call_once(failed, [&] { failure = std::current_exception(); });
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace strata::host
