#include "kernels/host/vendor.hpp"

#include <omp.h>

#include <algorithm>

#include "core/spans.hpp"

namespace strata::host {

namespace {
constexpr std::uint64_t hash_seed = 0xcbf29ce484222325u;

void mix(std::uint64_t& hash, std::int64_t value) {
  hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
  hash ^= hash >> 29;
}
}  // namespace

std::size_t CallKeyHash::operator()(const CallKey& key) const {
  std::uint64_t hash = hash_seed ^ static_cast<std::uint64_t>(key.kind);
  mix(hash, key.dtype);
  for (const auto extent : key.extents) mix(hash, extent);
  return hash;
}

Vendor::Vendor(int threads)
    : threads_(threads), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

Reorder::Reorder(const dnnl::engine& engine, const dnnl::memory::desc& plain,
                 const dnnl::memory::desc& wanted)
    : engine_(engine), plain_(plain), wanted_(wanted), layout_(weight_layout(plain, wanted)) {
  if (!layout_)
    vendors_ = dnnl::reorder(dnnl::reorder::primitive_desc(engine_, plain, engine_, wanted));
}

void Reorder::operator()(Exec& exec, std::byte* to, const std::byte* from) const {
  spans::Span span("reorder weights", "op");
  span.add_work(0, static_cast<double>(plain_.get_size() + wanted_.get_size()));
  if (layout_) return lay_out(exec, *layout_, to, from);
  dnnl::stream stream(engine_);
  dnnl::memory source(plain_, engine_, const_cast<std::byte*>(from)), target(wanted_, engine_, to);
  vendors_.execute(stream, source, target);
  stream.wait();
}

std::uint64_t Reorder::hash() const {
  std::uint64_t hash = hash_seed;
  for (const dnnl::memory::desc* desc : {&plain_, &wanted_}) {
    const dnnl_memory_desc_t& d = desc->data;
    const dnnl_blocking_desc_t& blocking = d.format_desc.blocking;
    mix(hash, d.data_type);
    for (int i = 0; i < d.ndims; ++i) {
      mix(hash, d.padded_dims[i]);
      mix(hash, blocking.strides[i]);
    }
    for (int i = 0; i < blocking.inner_nblks; ++i) {
      mix(hash, blocking.inner_idxs[i]);
      mix(hash, blocking.inner_blks[i]);
    }
  }
  return hash;
}

Vendor::Reordered& Vendor::entry_of(const std::byte* w, const dnnl::memory::desc& plain,
                                    const dnnl::memory::desc& wanted) {
  auto& known = weights_[w];
  const auto entry = std::find_if(known.begin(), known.end(), [&](const Reordered& candidate) {
    return candidate.reorder.is(plain, wanted);
  });
  if (entry != known.end()) return *entry;
  return known.emplace_back(Reordered{Reorder(engine_, plain, wanted), {}});
}

void* Vendor::shared_weights(Exec& exec, const std::byte* w, Reordered& entry) {
  if (!entry.slot) {
    std::uint64_t key = entry.reorder.hash();
    mix(key, w - shared_weights_.data);
    entry.slot = shared_->slot(std::max<std::uint64_t>(key, 1), entry.reorder.bytes());
    if (!entry.slot) return nullptr;
  }
  switch (shared_->turn(*entry.slot)) {
    case SharedLayouts::Turn::elsewhere:
      return nullptr;
    case SharedLayouts::Turn::write:
      entry.reorder(exec, shared_->data(*entry.slot), w);
      shared_->written(*entry.slot);
      break;
    case SharedLayouts::Turn::read:
      break;
  }
  return shared_->data(*entry.slot);
}

void* Vendor::weights(Exec& exec, const std::byte* w, const dnnl::memory::desc& plain,
                      const dnnl::memory::desc& wanted) {
  if (plain == wanted) return const_cast<std::byte*>(w);
  Reordered& entry = entry_of(w, plain, wanted);
  const bool shares = keeps_layouts_ && shared_ && w >= shared_weights_.data &&
                      w < shared_weights_.data + shared_weights_.bytes();
  if (shares)
    if (void* data = shared_weights(exec, w, entry)) return data;
  const bool keeps = keeps_layouts_ && !shares;
  Buffer& to = keeps ? entry.data : passing_;
  const std::int64_t bytes = entry.reorder.bytes();
  if (!to.tensor() || to.tensor().numel() < bytes) {
    to = Buffer(DType::u8, {bytes});
    entry.version = 0;
  }
  if (!keeps || entry.version != version_) {
    entry.reorder(exec, to.tensor().data, w);
    entry.version = version_;
  }
  return to.tensor().data;
}

void Vendor::weights_changed() {
  ++version_;
  if (shared_) shared_->weights_changed();
}

void Vendor::keep_layouts(bool keep) {
  keeps_layouts_ = keep;
  passing_ = {};
  if (!keep)
    for (auto& [address, known] : weights_)
      for (Reordered& entry : known) entry.data = {};
}

void Vendor::share_layouts(std::shared_ptr<SharedLayouts> shared, Tensor weights) {
  shared_ = std::move(shared);
  shared_weights_ = weights;
  for (auto& [address, known] : weights_)
    for (Reordered& entry : known) entry.slot = nullptr;
}

std::int64_t Vendor::layout_bytes() const {
  std::int64_t bytes = passing_.tensor() ? passing_.tensor().numel() : 0;
  for (const auto& [address, known] : weights_)
    for (const Reordered& entry : known)
      if (entry.data.tensor()) bytes += entry.data.tensor().numel();
  return bytes;
}

void Vendor::run(Exec& exec, const Call& call, Arguments arguments) {
  ArenaScope scope(exec.arena);
  if (const std::int64_t bytes = call.scratch_bytes())
    arguments.emplace(DNNL_ARG_SCRATCHPAD,
                      memory(call.scratchpad, exec.empty(DType::u8, {bytes}).data));
  call.primitive.execute(stream_, arguments);
  stream_.wait();
}

void Vendor::run_alone(const Call& call, Arguments arguments, std::byte* scratch) const {
  dnnl::stream stream(engine_);
  if (call.scratch_bytes() > 0)
    arguments.emplace(DNNL_ARG_SCRATCHPAD, memory(call.scratchpad, scratch));
  call.primitive.execute(stream, arguments);
  stream.wait();
}

void Vendor::run(const dnnl::reorder& reorder, const dnnl::memory::desc& from_desc,
                 const void* from, const dnnl::memory::desc& to_desc, void* to) const {
  dnnl::stream stream(engine_);
  auto source = memory(from_desc, from);
  auto target = memory(to_desc, to);
  reorder.execute(stream, source, target);
  stream.wait();
}

ThreadScope::ThreadScope(int threads) : before_(omp_get_max_threads()) {
  if (before_ != threads) omp_set_num_threads(threads);
}

ThreadScope::~ThreadScope() {
  omp_set_num_threads(before_);
}

}  // namespace strata::host
