// Ops that do nothing, on memory that is counted and not there: a step that runs on it tells what
// it takes of a device before there is one. What an op takes of the arena for itself is not asked
// for. Recordings keep CUDA's rules about who may wait for whom, so that what breaks them does so
// without a device.

#include <sys/mman.h>

#include <algorithm>
#include <map>

#include "kernels/backend.hpp"

namespace strata::counted {

namespace {

class CountedBackend;

/// A recording in the making: who takes part in it.
using Session = std::vector<CountedBackend*>;
/// How many events of each member's order lie before.
using Past = std::map<const CountedBackend*, std::int64_t>;

class CountedMoment final : public Moment {
 public:
  bool is_reached() const override {
    forbid_while_recording("ask the device");
    return true;
  }
  std::shared_ptr<const Session> session;  // the recording it was last marked in, if in one
  Past past;
};

class Played final : public Recording {
  void play() override { forbid_while_recording("play a recording"); }
};

class CountedBackend final : public Backend {
 public:
  void weights_changed() override {}
  void copy(void*, const void*, std::size_t) override { ++past_[this]; }
  void wait_for(Backend& other) override {
    auto& before = static_cast<CountedBackend&>(other);
    if (before.session_ && !session_) join(before.session_);
    follow(before.session_, before.past_);
  }
  std::unique_ptr<Moment> make_moment() override { return std::make_unique<CountedMoment>(); }
  void mark(Moment& moment) override {
    auto& marked = static_cast<CountedMoment&>(moment);
    marked.session = session_;
    marked.past = past_;
  }
  void wait_for(const Moment& moment) override {
    const auto& marked = static_cast<const CountedMoment&>(moment);
    follow(marked.session, marked.past);
  }
  std::unique_ptr<Recording> record(const std::function<void()>& body) override {
    const struct Members {
      std::shared_ptr<Session> session = std::make_shared<Session>();
      ~Members() {
        for (CountedBackend* member : *session) member->leave();
      }
    } members;
    join(members.session);
    call_for_recording(body);
    for (const CountedBackend* member : *members.session)
      if (past_[member] != member->past_.at(member))
        fail(Exit::internal, "a recording ends before ops of an Exec that takes part in it");
    return std::make_unique<Played>();
  }

  void linear(Exec&, Tensor, Tensor, Tensor, Tensor) override {}
  void linear(Exec&, Tensor, Tensor, const ops::PackedWeight&, Tensor, std::int64_t) override {}
  void linear_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void conv2d(Exec&, Tensor, Tensor, Tensor, Tensor, ops::Conv2dParams) override {}
  void conv2d_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                       ops::Conv2dParams) override {}
  void attention_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                          Tensor, Tensor, Tensor, ops::AttentionParams) override {}
  Buffer pack(Exec& exec, Tensor w) override { return {w.dtype, w.shape, exec.device()}; }
  void group_norm(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, int, float,
                  ops::Activation) override {}
  void group_norm_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           int, ops::Activation) override {}
  void layer_norm(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, float) override {}
  void layer_norm_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {
  }
  void rms_norm(Exec&, Tensor, Tensor, Tensor, float, ops::RmsScale) override {}
  void silu(Exec&, Tensor, Tensor) override {}
  void silu_backward(Exec&, Tensor, Tensor, Tensor) override {}
  void geglu(Exec&, Tensor, Tensor) override {}
  void geglu_backward(Exec&, Tensor, Tensor, Tensor) override {}
  void activation(Exec&, Tensor, Tensor, ops::Activation) override {}
  void gated(Exec&, Tensor, Tensor, Tensor, ops::Activation) override {}
  void add(Exec&, Tensor, Tensor, Tensor) override {}
  void add_per_sample(Exec&, Tensor, Tensor, Tensor) override {}
  void add_per_sample_backward(Exec&, Tensor, Tensor) override {}
  void cast(Exec&, Tensor, Tensor) override {}
  void fill(Exec&, Tensor, float) override {}
  void scale(Exec&, Tensor, Tensor, float) override {}
  void concat(Exec&, Tensor, Tensor, Tensor) override {}
  void split(Exec&, Tensor, Tensor, Tensor) override {}
  void upsample_nearest(Exec&, Tensor, Tensor) override {}
  void upsample_nearest_backward(Exec&, Tensor, Tensor) override {}
  void nchw_to_nhwc(Exec&, Tensor, Tensor) override {}
  void nhwc_to_nchw(Exec&, Tensor, Tensor) override {}
  void attention(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                 ops::AttentionParams) override {}
  void rope(Exec&, Tensor, Tensor, Tensor) override {}
  void store_in_pages(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void attention_paged(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                       ops::AttentionParams) override {}
  void embedding(Exec&, Tensor, Tensor, Tensor) override {}
  void timestep_embedding(Exec&, Tensor, Tensor, bool, float) override {}
  void accumulate_layer(Exec&, Tensor, Tensor, bool) override {}
  void normals(Exec&, Tensor, PhiloxKey, Tensor) override {}
  void draw_posterior(Exec&, Tensor, Tensor, Tensor) override {}
  void add_noise(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void mse_loss(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, float) override {}
  void adamw(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void gradient_stats(Exec&, Tensor, Tensor, Tensor, std::int64_t) override {}
  void decide_update(Exec&, Tensor, Tensor, Tensor, Tensor) override {}
  void accumulate(Exec&, Tensor, Tensor) override {}

 private:
  void join(const std::shared_ptr<Session>& session) {
    session_ = session;
    session->push_back(this);
    past_ = {{this, 1}};
  }
  void leave() {
    session_.reset();
    past_.clear();
  }
  void follow(const std::shared_ptr<const Session>& session, const Past& past) {
    if (session != session_) fail_outside_of_recording();
    for (const auto& [member, count] : past) past_[member] = std::max(past_[member], count);
    ++past_[this];
  }

  std::shared_ptr<Session> session_;
  Past past_;  // in the recording: what this one's next op comes after
};

}  // namespace

std::unique_ptr<Backend> make_backend() {
  return std::make_unique<CountedBackend>();
}

/// Addresses that nothing stands behind.
void* allocate(std::size_t bytes) {
  void* data = mmap(nullptr, std::max<std::size_t>(bytes, 1), PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail(Exit::internal, "out of addresses: {} bytes", bytes);
  return data;
}

void release(void* data, std::size_t bytes) noexcept {
  munmap(data, std::max<std::size_t>(bytes, 1));
}

}  // namespace strata::counted
