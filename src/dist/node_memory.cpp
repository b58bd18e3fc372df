#include "dist/node_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "core/log.hpp"
#include "core/process.hpp"
#include "core/shared_layouts.hpp"

namespace strata {

namespace {

/// A weight has a layout or two a pass, more where batches differ in size. Only what is used takes
/// memory.
constexpr std::int64_t layouts_of_a_weight = 8;

std::shared_ptr<std::byte> map(int fd, std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, size, MADV_HUGEPAGE);  // where the system lets shared memory have them
  return {static_cast<std::byte*>(memory), [size](std::byte* data) { munmap(data, size); }};
}

int make_file(std::int64_t bytes) {
  const int fd = memfd_create("strata-layouts", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, bytes) == 0) return fd;
  const int problem = errno;
  close(fd);
  errno = problem;
  return -1;
}

}  // namespace

int NodeFile::reopen() const {
  return open(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), O_RDWR | O_CLOEXEC);
}

std::vector<NodeFile> files_of_node(Communicator& comm, int fd) {
  // Where a process id means the same process.
  const std::string node = host_name() + " " + boot_id() + " " + pid_namespace();
  const auto all = comm.all_gather_strings(fmt::format("{} {} {}", getpid(), fd, node));
  std::vector<NodeFile> files;
  for (int rank = 0; rank < comm.size(); ++rank) {
    char* end = nullptr;
    NodeFile file{.rank = rank};
    file.pid = static_cast<int>(std::strtol(all[rank].c_str(), &end, 10));
    file.fd = static_cast<int>(std::strtol(end, &end, 10));
    if (node == end + 1) files.push_back(file);
  }
  return files;
}

void share_layouts(Exec& exec, Communicator& comm, Tensor weights) {
  if (!(exec.device() == host_device) || comm.size() == 1) return;
  const auto places = files_of_node(comm, -1);
  const int users = static_cast<int>(places.size());
  int user = 0;
  while (places[user].rank != comm.rank()) ++user;
  const std::int64_t bytes = SharedLayouts::bytes_for(
      layouts_of_a_weight * static_cast<std::int64_t>(weights.bytes()), users);
  std::string problem;
  const auto or_problem = [&](bool is_well) {
    if (!is_well && problem.empty()) problem = std::strerror(errno);
    return is_well;
  };
  const bool leads = user == 0 && users > 1;
  int fd = leads ? make_file(bytes) : -1;
  or_problem(!leads || fd >= 0);
  const NodeFile file = files_of_node(comm, fd).front();
  if (!leads && file.fd >= 0) or_problem((fd = file.reopen()) >= 0);
  std::shared_ptr<std::byte> memory;
  if (fd >= 0) or_problem((memory = map(fd, bytes)) != nullptr);
  // All of a node or none; and the others have the leader's file before it is closed.
  const auto problems = comm.all_gather_strings(problem);
  if (fd >= 0) close(fd);
  for (const NodeFile& place : places) {
    if (problems[place.rank].empty()) continue;
    if (user == 0)
      log::warn("each of this node's {} ranks keeps weight layouts of its own: rank {}: {}", users,
                place.rank, problems[place.rank]);
    return;
  }
  if (memory)
    share_layouts(exec, std::make_shared<SharedLayouts>(std::move(memory), bytes, user, users),
                  weights);
}

}  // namespace strata
