#pragma once
// Where memory lives. The functions are implemented by kernels/, which alone knows the vendors.

#include <cstddef>
#include <cstdint>

namespace strata {

enum class DeviceKind : std::uint8_t { host, cuda };

struct Device {
  DeviceKind kind = DeviceKind::host;
  std::int8_t index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr Device host_device{};

namespace memory {
/// 64-byte aligned (host) or device memory, uninitialised. Throws Error(70) when there is none
/// left.
void* allocate(Device device, std::size_t bytes);
void release(Device device, void* data) noexcept;
/// Copies between any two devices; returns when done.
void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);
}  // namespace memory

}  // namespace strata
