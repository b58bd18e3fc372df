// Weight layouts shared by the ranks of a node: the bits of private ones, whatever the ranks' order
// in time.

#include "dist/node_memory.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <random>

#include "core/shared_layouts.hpp"
#include "job.hpp"
#include "kernels/ops.hpp"

namespace strata {
namespace {

constexpr std::int64_t width = 128, images = 2, side = 6;

/// A product and a convolution with the weights of a version, and another product whose weights
/// lie elsewhere.
class Network {
 public:
  Network() {
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    for (Buffer* values : {&x_, &outside_})
      for (std::int64_t i = 0; i < values->tensor().numel(); ++i)
        values->as<float>()[i] = normal(engine);
  }
  Tensor weights() const { return weights_; }
  void set_version(int version) {
    for (std::int64_t i = 0; i < weights_.tensor().numel(); ++i)
      weights_.as<float>()[i] =
          static_cast<float>((i * 7919 + version * 104729) % 1999) * 1e-3f - 1;
  }
  /// What both make of x, one after the other.
  std::vector<float> operator()(Exec& exec) const {
    const ArenaScope scope(exec.arena);
    const Tensor product = weights_.tensor().rows(0, width * width).reshape({width, width});
    const Tensor convolution = weights_.tensor()
                                   .rows(width * width, weights_.tensor().numel())
                                   .reshape({width, 3, 3, width});
    const Shape shape{images, side, side, width};
    const Tensor a = exec.empty(DType::f32, shape), b = exec.empty(DType::f32, shape),
                 c = exec.empty(DType::f32, shape);
    ops::linear(exec, a, x_, product);
    ops::conv2d(exec, b, a, convolution, {}, {});
    ops::linear(exec, c, b, outside_);
    return {c.as<float>(), c.as<float>() + c.numel()};
  }

 private:
  Buffer x_{DType::f32, {images, side, side, width}};
  Buffer weights_{DType::f32, {10 * width * width}};
  Buffer outside_{DType::f32, {width, width}};
};

TEST(SharedLayoutsOfRanks, BitsArePrivateOnesThoughNobodyWaitsForAnybody) {
  Network network;
  Exec shared(host_device, 1), own(host_device, 1);
  share_layouts(shared, world(), network.weights());
  constexpr int kinds = 3;
  std::vector<std::vector<float>> want;
  for (int kind = 0; kind < kinds; ++kind) {
    network.set_version(kind);
    own.weights_changed();
    want.push_back(network(own));
  }
  std::mt19937 engine(static_cast<unsigned>(world().rank()));
  for (int version = 0; version < 300; ++version) {
    network.set_version(version % kinds);
    shared.weights_changed();
    const auto pauses = engine() % 8 == 0 ? engine() % 3000 : 0;
    for (int pass = 0; pass < 3; ++pass) {
      const std::vector<float> got = network(shared);
      EXPECT_EQ(std::memcmp(got.data(), want[version % kinds].data(), got.size() * sizeof(float)),
                0)
          << "version " << version << ", pass " << pass;
      if (pauses > 0) usleep(pauses);
    }
  }
  world().barrier();
}

TEST(SharedLayoutsOfRanks, AreInMemoryOnce) {
  Network network;
  network.set_version(0);
  Exec shared(host_device, 1), own(host_device, 1);
  share_layouts(shared, world(), network.weights());
  world().barrier();
  for (int pass = 0; pass < 3; ++pass) {
    network(shared);
    network(own);
    world().barrier();
  }
  const std::int64_t shared_bytes = shared_layout_bytes(shared), own_bytes = shared.layout_bytes();
  EXPECT_EQ(shared_layout_bytes(own), 0);
  if (world().size() == 1) {
    EXPECT_EQ(shared_bytes, 0);
    EXPECT_EQ(own_bytes, own.layout_bytes());
    return;
  }
  // What lies outside is each rank's own, and so is what it needed while others wrote.
  constexpr std::int64_t outside = width * width * 4, convolution = 9 * outside;
  EXPECT_EQ(own.layout_bytes(), 2 * outside + convolution);
  EXPECT_EQ(shared_bytes, outside + convolution);
  EXPECT_GE(own_bytes, outside);
  EXPECT_LE(own_bytes, outside + convolution);
}

/// As long as it lives this process has room for little more memory: not for what is shared here.
class LittleMemory {
 public:
  LittleMemory() {
    std::int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    getrlimit(RLIMIT_AS, &before_);
    const rlimit little{static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (4 << 20)),
                        before_.rlim_max};
    setrlimit(RLIMIT_AS, &little);
  }
  ~LittleMemory() { setrlimit(RLIMIT_AS, &before_); }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;

 private:
  rlimit before_{};
};

TEST(SharedLayoutsOfRanks, WhereOneRankCannotAllKeepTheirOwn) {
  if (world().size() == 1) GTEST_SKIP() << "one rank shares with nobody";
  Network network;
  network.set_version(0);
  Exec shared(host_device, 1), own(host_device, 1);
  const std::vector<float> want = network(own);
  const int last = world().size() - 1;
  testing::internal::CaptureStderr();
  {
    std::optional<LittleMemory> little;
    if (world().rank() == last) little.emplace();
    share_layouts(shared, world(), network.weights());
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("keeps weight layouts of its own: rank " + std::to_string(last)) !=
                std::string::npos,
            world().rank() == 0)
      << said;
  EXPECT_EQ(network(shared), want);
  EXPECT_EQ(shared_layout_bytes(shared), 0);
  EXPECT_EQ(shared.layout_bytes(), own.layout_bytes());
}

}  // namespace
}  // namespace strata
