// main of the test programs that run under mpirun: failures of all ranks count, rank 0 prints the
// rest.

#include <gtest/gtest.h>

#include "job.hpp"

namespace {
strata::Job* job = nullptr;
}  // namespace

strata::Communicator& world() {
  return job->world();
}

int main(int argc, char** argv) {
  strata::Job this_job(argc, argv);
  job = &this_job;
  testing::InitGoogleTest(&argc, argv);
  if (world().rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    if (!testing::GTEST_FLAG(list_tests)) {
      // Failures of other ranks still show through the exit code and this one line each.
      class Failures : public testing::EmptyTestEventListener {
        void OnTestPartResult(const testing::TestPartResult& result) override {
          if (result.failed())
            std::fprintf(stderr, "rank %d: %s:%d: %s\n", world().rank(), result.file_name(),
                         result.line_number(), result.summary());
        }
      };
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new Failures);
    }
  }
  return RUN_ALL_TESTS();
}
