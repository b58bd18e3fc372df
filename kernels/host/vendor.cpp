#include "kernels/host/vendor.hpp"

#include <omp.h>

#include <algorithm>

#include "core/spans.hpp"

namespace strata::host {

std::size_t CallKeyHash::operator()(const CallKey& key) const {
  std::uint64_t hash = 0xcbf29ce484222325u ^ static_cast<std::uint64_t>(key.kind);
  const auto mix = [&](std::int64_t value) {
    hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  };
  mix(key.dtype);
  for (const auto extent : key.extents) mix(extent);
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

void* Vendor::weights(Exec& exec, const std::byte* w, const dnnl::memory::desc& plain,
                      const dnnl::memory::desc& wanted) {
  if (plain == wanted) return const_cast<std::byte*>(w);
  auto& known = weights_[w];
  auto entry = std::find_if(known.begin(), known.end(), [&](const Reordered& candidate) {
    return candidate.reorder.is(plain, wanted);
  });
  if (entry == known.end())
    entry = known.insert(entry, Reordered{Reorder(engine_, plain, wanted), {}});
  Buffer& to = keeps_layouts_ ? entry->data : passing_;
  const std::int64_t bytes = entry->reorder.bytes();
  if (!to.tensor() || to.tensor().numel() < bytes) {
    to = Buffer(DType::u8, {bytes});
    entry->version = 0;
  }
  if (!keeps_layouts_ || entry->version != version_) {
    entry->reorder(exec, to.tensor().data, w);
    entry->version = version_;
  }
  return to.tensor().data;
}

void Vendor::keep_layouts(bool keep) {
  keeps_layouts_ = keep;
  passing_ = {};
  if (!keep)
    for (auto& [address, known] : weights_)
      for (Reordered& entry : known) entry.data = {};
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
