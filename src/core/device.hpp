#pragma once
// Where memory lives. The functions are implemented by kernels/, which alone knows the vendors.

#include <cstddef>
#include <cstdint>

namespace strata {

enum class DeviceKind : std::uint8_t {
  host,
  cuda,
  counted,  // ops do nothing and memory is not there: how much would be needed is what is asked
};

struct Device {
  DeviceKind kind = DeviceKind::host;
  std::int8_t index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr Device host_device{}, counted_device{DeviceKind::counted, 0};

/// The GPU of a rank among those of its machine. Error(69) when this build or machine has none.
Device cuda_device(int local_rank = 0, int local_size = 1);

namespace memory {
/// 64-byte aligned (host) or device memory, uninitialised. Throws Error(70) when there is none
/// left.
void* allocate(Device device, std::size_t bytes);
/// bytes: as they were asked for.
void release(Device device, void* data, std::size_t bytes) noexcept;
/// Copies between any two devices, ordered with the ops of every Exec; host memory may be used or
/// freed when it returns.
void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);
}  // namespace memory

}  // namespace strata
