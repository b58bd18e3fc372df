#include "model/parameters.hpp"

#include <algorithm>

namespace strata {

namespace {

template <class To, class From>
void permute_copy(To* to, const From* from, const Shape& file, bool to_memory) {
  // file (N,C,R*S) <-> memory (N,R*S,C)
  const std::int64_t n = file[0], c = file[1], rs = file[2] * file[3];
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < c; ++j)
      for (std::int64_t p = 0; p < rs; ++p) {
        const std::int64_t in_file = (i * c + j) * rs + p, in_memory = (i * rs + p) * c + j;
        if (to_memory)
          to[in_memory] = from_float<To>(to_float(from[in_file]));
        else
          to[in_file] = from_float<To>(to_float(from[in_memory]));
      }
}

template <class To, class From>
void copy_elements(const Parameter& p, To* to, const From* from, bool to_memory) {
  if (p.layout == ParamLayout::conv_krsc) return permute_copy(to, from, p.shape, to_memory);
  for (std::int64_t i = 0, n = p.numel(); i < n; ++i) to[i] = from_float<To>(to_float(from[i]));
}

}  // namespace

ParamId ParameterTable::add(std::string name, Shape shape, ParamLayout layout) {
  STRATA_CHECK(find(name) == no_param, "parameter {} twice", name);
  Parameter p{std::move(name), shape, shape, layout};
  if (layout == ParamLayout::conv_krsc) {
    STRATA_CHECK(shape.rank() == 4);
    p.memory_shape = {shape[0], shape[2], shape[3], shape[1]};
  }
  p.offset = numel();
  parameters_.push_back(std::move(p));
  order_.push_back(size() - 1);
  return size() - 1;
}

void ParameterTable::arrange(std::span<const ParamId> completion_order) {
  STRATA_CHECK(static_cast<int>(completion_order.size()) == size());
  std::vector<bool> seen(parameters_.size(), false);
  std::int64_t offset = 0;
  for (ParamId id : completion_order) {
    STRATA_CHECK(id >= 0 && id < size() && !seen[id], "parameter {} placed twice", id);
    seen[id] = true;
    parameters_[id].offset = offset;
    offset += parameters_[id].numel();
  }
  order_.assign(completion_order.begin(), completion_order.end());
}

std::int64_t ParameterTable::numel() const {
  std::int64_t n = 0;
  for (const auto& p : parameters_) n += p.numel();
  return n;
}

std::int64_t ParameterTable::lead(DType dtype) const {
  constexpr std::size_t access = 16;  // bytes that a device moves at once
  const auto step = static_cast<std::int64_t>(access / size_of(dtype));
  std::vector<std::int64_t> served(static_cast<std::size_t>(step), 0);
  for (const auto& p : parameters_)
    served[static_cast<std::size_t>((step - p.offset % step) % step)] += p.numel();
  return std::max_element(served.begin(), served.end()) - served.begin();
}

ParamId ParameterTable::find(std::string_view name) const {
  for (int i = 0; i < size(); ++i)
    if (parameters_[i].name == name) return i;
  return no_param;
}

Tensor Weights::operator[](ParamId id) const {
  if (id == no_param) return {};
  if (arrivals_) arrivals_->needs(id);
  const Parameter& p = (*table_)[id];
  return flat_.rows(p.offset, p.offset + p.numel()).reshape(p.memory_shape);
}

Tensor Weights::flat() const {
  if (arrivals_) arrivals_->needs_all();
  return flat_;
}

namespace {
Buffer copy_to(Device device, Tensor from) {
  Buffer to(from.dtype, from.shape, device);
  memory::copy(to.tensor().data, device, from.data, from.device, from.bytes());
  return to;
}
}  // namespace

DenseGradients::DenseGradients(const ParameterTable& table, Device device)
    : table_(table), flat_(Buffer::zeros(DType::f32, {table.numel()})) {
  if (!(device == host_device)) flat_ = copy_to(device, flat_);
}

Buffer DenseGradients::on_host() const {
  return copy_to(host_device, flat_);
}

Tensor DenseGradients::operator[](ParamId id) {
  return Weights(table_, flat_)[id];
}

void import_parameter(const Parameter& p, Tensor memory, Tensor file_f32) {
  STRATA_CHECK(memory.numel() == p.numel() && file_f32.numel() == p.numel());
  const float* from = file_f32.as<float>();
  if (memory.dtype == DType::bf16)
    copy_elements(p, memory.as<bf16>(), from, true);
  else
    copy_elements(p, memory.as<float>(), from, true);
}

void export_parameter(const Parameter& p, Tensor file_f32, Tensor memory) {
  STRATA_CHECK(memory.numel() == p.numel() && file_f32.numel() == p.numel());
  float* to = file_f32.as<float>();
  if (memory.dtype == DType::bf16)
    copy_elements(p, to, memory.as<bf16>(), false);
  else
    copy_elements(p, to, memory.as<float>(), false);
}

}  // namespace strata
