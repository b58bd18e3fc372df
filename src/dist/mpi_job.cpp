#include <cstdlib>
#include <exception>

#include "core/log.hpp"
#include "dist/mpi_communicator.hpp"

namespace strata {

namespace {

bool is_set(const char* name) {
  return std::getenv(name) != nullptr;
}

/// mpirun and srun --mpi=pmix tell their processes who they are by these.
bool started_by_launcher() {
  return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || is_set("PMI_RANK");
}

/// srun without PMIx starts ranks that cannot find each other: each would run the whole job alone.
void refuse_srun_without_pmi() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks && is_set("SLURM_STEP_ID") && std::atoi(tasks) > 1)
    fail(Exit::unavailable, "srun started {} tasks without PMIx: use srun --mpi=pmix", tasks);
}

}  // namespace

Job::Job(int& argc, char**& argv) : exceptions_(std::uncaught_exceptions()) {
  if (!started_by_launcher()) {
    refuse_srun_without_pmi();
    world_ = local_communicator();
    return;
  }
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread",
            Exit::unavailable);
  finalize_ = true;
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_FUNNELED)
    fail(Exit::unavailable, "MPI_Init_thread: this MPI supports no threads at all (level {})",
         provided);
  const bool concurrent = provided == MPI_THREAD_MULTIPLE;
  world_ = std::make_unique<MpiCommunicator>(MPI_COMM_WORLD,
                                             std::make_shared<FailureChannel>(MPI_COMM_WORLD),
                                             concurrent, ChannelOptions{});
  log::set_rank(world_->rank(), world_->size());
  if (!concurrent && world_->size() > 1)
    log::info("MPI gives no MPI_THREAD_MULTIPLE: gradients are sent without overlap");
}

Job::~Job() {
  if (!finalize_) return;
  if (std::uncaught_exceptions() > exceptions_ && world_ && world_->size() > 1)
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(Exit::internal));
  world_.reset();
  MPI_Finalize();
}

}  // namespace strata
