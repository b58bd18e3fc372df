#pragma once
// Binary data from outside, read front to back.

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/error.hpp"

namespace strata {

/// Every read is proven to lie inside before it is made; one that does not is Error(65) naming
/// `where` and the byte.
class ByteReader {
 public:
  ByteReader(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  bool at_end() const { return at_ == bytes_.size(); }
  std::size_t offset() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }

  std::string_view take(std::uint64_t count) {
    if (count > left()) refuse(fmt::format("cut off: {} bytes of {}", left(), count));
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  /// Little-endian, as this machine.
  template <class T>
  requires std::is_trivially_copyable_v<T> T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  /// Seven bits a byte, the lowest first, as protocol buffers have it.
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = number<std::uint8_t>();
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number of more than 64 bits");
  }
  [[noreturn]] void refuse(std::string_view what) const {
    fail(Exit::data, "{}: offset {}: {}", where_, at_, what);
  }

 private:
  std::string_view bytes_;
  std::string where_;
  std::size_t at_ = 0;
};

}  // namespace strata
