#pragma once
// TensorBoard event files: TFRecord frames (length, masked CRC-32C of it, bytes, masked CRC-32C of
// them) around protobuf messages.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "train/appended_file.hpp"

namespace strata {

/// ((crc >> 15) | (crc << 17)) + 0xa282ead8: what TFRecord stores in place of a CRC.
std::uint32_t masked_crc32c(std::string_view bytes);
/// One frame: u64 length, u32, bytes, u32; little-endian.
std::string tfrecord_frame(std::string_view bytes);

class TensorBoardWriter {
 public:
  /// A new file events.out.tfevents.<seconds>.<host>.<pid> in `dir` (created). Error(73).
  explicit TensorBoardWriter(const std::string& dir);
  void scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values);
  /// png: a PNG file's bytes; anything else is left out.
  void image(std::int64_t step, const std::string& tag, std::string_view png);
  const std::string& path() const { return file_.path(); }

 private:
  void append(std::string_view message);

  AppendedFile file_;
};

}  // namespace strata
