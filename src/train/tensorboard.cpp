#include "train/tensorboard.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/process.hpp"

namespace strata {

namespace {

static_assert(std::endian::native == std::endian::little);

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// A protobuf message in its wire format. Written by hand because libsentencepiece carries a
/// protobuf of its own, which aborts beside another version of it in one process.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) {
    key(field, 0);
    varint(value);
    return *this;
  }
  Message& real(int field, double value) {
    key(field, 1);
    bytes_ += bytes_of(value);
    return *this;
  }
  Message& real(int field, float value) {
    key(field, 5);
    bytes_ += bytes_of(value);
    return *this;
  }
  Message& text(int field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, int wire_type) { varint(static_cast<std::uint64_t>(field) << 3 | wire_type); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

// Field numbers of TensorBoard's event format (tests/train/event.proto).
namespace event_field {
constexpr int wall_time = 1, step = 2, file_version = 3, summary = 5;
}
constexpr int summary_value_field = 1;
namespace value_field {
constexpr int tag = 1, simple_value = 2, image = 4;
}
namespace image_field {
constexpr int height = 1, width = 2, colorspace = 3, encoded = 4;
}

Message event_at(std::int64_t step) {
  Message event;
  event.real(event_field::wall_time, seconds_now());
  event.integer(event_field::step, static_cast<std::uint64_t>(step));
  return event;
}

std::uint32_t big_endian(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char c : bytes.substr(0, 4)) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

}  // namespace

std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(0, bytes.data(), bytes.size()), 15) + 0xa282ead8u;
}

std::string tfrecord_frame(std::string_view bytes) {
  const auto length = static_cast<std::uint64_t>(bytes.size());
  std::string frame(bytes_of(length));
  frame += bytes_of(masked_crc32c(bytes_of(length)));
  frame += bytes;
  frame += bytes_of(masked_crc32c(bytes));
  return frame;
}

TensorBoardWriter::TensorBoardWriter(const std::string& dir)
    : file_(fmt::format("{}/events.out.tfevents.{:010}.{}.{}", dir,
                        static_cast<std::int64_t>(seconds_now()), host_name(), getpid()),
            O_WRONLY) {
  append(event_at(0).text(event_field::file_version, "brain.Event:2").bytes());
}

void TensorBoardWriter::append(std::string_view message) {
  file_.append(tfrecord_frame(message));
}

void TensorBoardWriter::scalars(std::int64_t step,
                                std::span<const std::pair<std::string, double>> values) {
  Message summary;
  for (const auto& [tag, number] : values) {
    Message value;
    value.text(value_field::tag, tag);
    value.real(value_field::simple_value, static_cast<float>(number));
    summary.text(summary_value_field, value.bytes());
  }
  append(event_at(step).text(event_field::summary, summary.bytes()).bytes());
}

void TensorBoardWriter::image(std::int64_t step, const std::string& tag, std::string_view png) {
  if (png.size() < 24 || !png.starts_with("\x89PNG")) return;
  Message image, value, summary;
  image.integer(image_field::height, big_endian(png.substr(20)));
  image.integer(image_field::width, big_endian(png.substr(16)));
  image.integer(image_field::colorspace, 3);
  image.text(image_field::encoded, png);
  value.text(value_field::tag, tag).text(value_field::image, image.bytes());
  summary.text(summary_value_field, value.bytes());
  append(event_at(step).text(event_field::summary, summary.bytes()).bytes());
}

}  // namespace strata
