#pragma once
// What the host backend keeps of oneDNN between calls: compiled primitives by shape, and weights in
// the layouts that those primitives chose.

#include <array>
#include <cstring>
#include <dnnl.hpp>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/exec.hpp"
#include "core/shared_layouts.hpp"
#include "kernels/host/weight_layouts.hpp"

namespace strata::host {

enum class Kind : std::int64_t {
  linear,
  packed_layout,
  packed_linear,
  linear_input_gradient,
  linear_weight_gradient,
  conv,
  conv_input_gradient,
  conv_weight_gradient,
};

/// The shape of one call: everything that the primitive depends on.
struct CallKey {
  Kind kind;
  std::int64_t dtype;
  std::array<std::int64_t, 14> extents{};
  bool operator==(const CallKey&) const = default;
};

struct CallKeyHash {
  std::size_t operator()(const CallKey& key) const;
};

/// A compiled primitive and the layouts that it wants.
struct Call {
  dnnl::primitive primitive;
  dnnl::memory::desc x, w, y, bias, scratchpad;
  dnnl::reorder fold;  // weight gradients of convolutions: vendor layout -> += plain layout
  std::int64_t scratch_bytes() const { return static_cast<std::int64_t>(scratchpad.get_size()); }
};

/// From one layout of weights to another, by the fastest way known.
class Reorder {
 public:
  Reorder(const dnnl::engine& engine, const dnnl::memory::desc& plain,
          const dnnl::memory::desc& wanted);
  bool is(const dnnl::memory::desc& plain, const dnnl::memory::desc& wanted) const {
    return wanted_ == wanted && plain_ == plain;
  }
  std::int64_t bytes() const { return static_cast<std::int64_t>(wanted_.get_size()); }
  /// Of both layouts, the same in every process.
  std::uint64_t hash() const;
  void operator()(Exec& exec, std::byte* to, const std::byte* from) const;

 private:
  dnnl::engine engine_;
  dnnl::memory::desc plain_, wanted_;
  std::optional<WeightLayout> layout_;
  dnnl::reorder vendors_;  // where that is absent
};

using Arguments = std::unordered_map<int, dnnl::memory>;

class Vendor {
 public:
  explicit Vendor(int threads);

  /// The call of this key; made by make() the first time.
  template <class Make>
  const Call& call(const CallKey& key, Make make) {
    const auto found = calls_.find(key);
    if (found != calls_.end()) return found->second;
    return calls_.emplace(key, make()).first->second;
  }

  /// Weights `w`, plain in memory, in the layout `wanted`, until the next call: reordered once
  /// until they change, or each time where layouts are not kept.
  void* weights(Exec& exec, const std::byte* w, const dnnl::memory::desc& plain,
                const dnnl::memory::desc& wanted);
  void weights_changed();
  void keep_layouts(bool keep);
  void share_layouts(std::shared_ptr<SharedLayouts> shared, Tensor weights);
  std::int64_t layout_bytes() const;  // our own
  std::int64_t shared_layout_bytes() const { return shared_ ? shared_->used() : 0; }

  dnnl::memory memory(const dnnl::memory::desc& desc, const void* data) const {
    return {desc, engine_, const_cast<void*>(data)};
  }
  /// Runs it with a scratchpad from the arena.
  void run(Exec& exec, const Call& call, Arguments arguments);
  /// Runs it on the calling thread alone, which may be one of several; `scratch` is its own.
  void run_alone(const Call& call, Arguments arguments, std::byte* scratch) const;
  void run(const dnnl::reorder& reorder, const dnnl::memory::desc& from_desc, const void* from,
           const dnnl::memory::desc& to_desc, void* to) const;

  const dnnl::engine& engine() const { return engine_; }
  int threads() const { return threads_; }

 private:
  struct Reordered {
    Reorder reorder;
    Buffer data;  // where layouts are kept
    std::uint64_t version = 0;
    SharedLayouts::Slot* slot = nullptr;  // once it is known
  };

  Reordered& entry_of(const std::byte* w, const dnnl::memory::desc& plain,
                      const dnnl::memory::desc& wanted);
  /// Null where it must be made in memory of our own.
  void* shared_weights(Exec& exec, const std::byte* w, Reordered& entry);

  int threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::uint64_t version_ = 1;
  bool keeps_layouts_ = true;
  Buffer passing_;  // one layout at a time, where they are not kept
  std::shared_ptr<SharedLayouts> shared_;
  Tensor shared_weights_{};  // whose layouts those are
  std::unordered_map<CallKey, Call, CallKeyHash> calls_;
  std::unordered_map<const std::byte*, std::vector<Reordered>> weights_;
};

/// oneDNN asks OpenMP how many threads there are; within this scope the answer is the Exec's.
class ThreadScope {
 public:
  explicit ThreadScope(int threads);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

inline dnnl::memory::data_type vendor_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

}  // namespace strata::host
