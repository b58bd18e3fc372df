#include "core/transfer.hpp"

namespace strata {

Tensor on_device(Exec& exec, Tensor tensor) {
  if (!tensor || tensor.device == exec.device()) return tensor;
  const Tensor there = exec.empty(tensor.dtype, tensor.shape);
  memory::copy(there.data, there.device, tensor.data, tensor.device, tensor.bytes());
  return there;
}

std::vector<float> to_host(Tensor tensor) {
  STRATA_CHECK(tensor.dtype == DType::f32 || tensor.dtype == DType::bf16, "{}",
               name_of(tensor.dtype));
  std::vector<std::byte> bytes(tensor.bytes());
  memory::copy(bytes.data(), host_device, tensor.data, tensor.device, bytes.size());
  Tensor here = tensor;
  here.data = bytes.data();
  here.device = host_device;
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = tensor.dtype == DType::bf16 ? to_float(here.as<bf16>()[i]) : here.as<float>()[i];
  return values;
}

}  // namespace strata
