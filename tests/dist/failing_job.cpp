// A job that fails on purpose, with the exit policy of tools/strata.cpp.
//   failing_job one RANK   that rank throws in the middle of a step while the others communicate
//   failing_job all        every rank throws
//   failing_job escape     rank 1's exception leaves the scope of Job
//   failing_job dies       kill -9 of itself, with a monitor, before MPI starts
//   failing_job leaves-out, swaps, shorter, repeats: rank 1 leaves a call out that the others make,
//                          makes two in the other order, one with fewer values, one twice

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "dist/monitor.hpp"
#include "dist/zero2.hpp"

namespace {

using namespace strata;

void train_until(Communicator& world, int failing_rank) {
  Exec exec(host_device, 1);
  ParameterTable table;
  table.add("a", {100, 100});
  table.add("b", {50, 100});
  table.arrange(std::vector<ParamId>{0, 1});
  Zero2 zero(exec, world, table, {.bucket_bytes = 1000});
  const Buffer start = Buffer::zeros(DType::f32, {table.numel()});
  zero.set_parameters(start);
  for (int step = 1;; ++step) {
    zero.begin_step(1);
    for (const ParamId id : {0, 1}) {
      zero[id].as<float>()[0] = 1.0f;
      if (step == 5 && id == 1 && world.rank() == failing_rank)
        fail(Exit::data, "sample 7 is damaged");
      const ParamId ids[] = {id};
      zero.ready(ids);
    }
    zero.end_microbatch();
    UpdateOptions update;
    update.adamw.lr = 0.1f;
    update.adamw.step = step;
    zero.update(update);
  }
}

/// What rank 1 does otherwise than the others, in the third of ten rounds.
void call_out_of_order(Communicator& world, const std::string& how) {
  std::vector<double> values(4, 1.0);
  std::vector<std::int64_t> most(4, world.rank());
  for (int round = 0; round < 10; ++round) {
    const bool other = round == 2 && world.rank() == 1;
    if (!(other && how == "leaves-out")) world.all_reduce_sum(values);
    if (other && how == "swaps") world.barrier();
    world.all_reduce_max(std::span(most).first(other && how == "shorter" ? 3 : 4));
    if (!(other && how == "swaps")) world.barrier();
    if (other && how == "repeats") world.barrier();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "all";
  if (mode == "dies") {
    const Monitor monitor;
    std::raise(SIGKILL);
  }
  try {
    Job job(argc, argv);
    if (mode == "escape" && job.world().rank() == 1) fail(Exit::data, "out of the job's scope");
    if (mode == "escape") job.world().barrier();
    try {
      if (mode == "leaves-out" || mode == "swaps" || mode == "shorter" || mode == "repeats")
        call_out_of_order(job.world(), mode);
      if (mode == "one") train_until(job.world(), std::atoi(argv[2]));
      fail(Exit::usage, "all ranks agree on this");
    } catch (const Error& e) {
      if (job.world().reports_failure())
        std::fprintf(stderr, "error of rank %d: %s\n", job.world().rank(), e.what());
      job.world().abort(static_cast<int>(e.code()));
    }
  } catch (const Error& e) {
    return static_cast<int>(e.code());
  }
}
