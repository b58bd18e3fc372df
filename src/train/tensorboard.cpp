#include "train/tensorboard.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/process.hpp"
#include "event.pb.h"

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

tensorboard::Event event_at(std::int64_t step) {
  tensorboard::Event event;
  event.set_wall_time(seconds_now());
  event.set_step(step);
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

TensorBoardWriter::TensorBoardWriter(const std::string& dir) {
  make_directories(dir);
  const auto seconds = static_cast<std::int64_t>(seconds_now());
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{}.{}", dir, seconds, host_name(), getpid());
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(path_, "open", true);
  tensorboard::Event event = event_at(0);
  event.set_file_version("brain.Event:2");
  append(event.SerializeAsString());
}

TensorBoardWriter::~TensorBoardWriter() {
  if (fd_ >= 0) close(fd_);
}

void TensorBoardWriter::append(std::string_view message) {
  const std::string frame = tfrecord_frame(message);
  for (std::size_t done = 0; done < frame.size();) {
    const ssize_t n = write(fd_, frame.data() + done, frame.size() - done);
    if (n < 0 && errno != EINTR) fail_errno(path_, "write");
    if (n > 0) done += static_cast<std::size_t>(n);
  }
}

void TensorBoardWriter::scalars(std::int64_t step,
                                std::span<const std::pair<std::string, double>> values) {
  tensorboard::Event event = event_at(step);
  for (const auto& [tag, number] : values) {
    auto* value = event.mutable_summary()->add_value();
    value->set_tag(tag);
    value->set_simple_value(static_cast<float>(number));
  }
  append(event.SerializeAsString());
}

void TensorBoardWriter::image(std::int64_t step, const std::string& tag, std::string_view png) {
  if (png.size() < 24 || !png.starts_with("\x89PNG")) return;
  tensorboard::Event event = event_at(step);
  auto* value = event.mutable_summary()->add_value();
  value->set_tag(tag);
  value->mutable_image()->set_width(static_cast<std::int32_t>(big_endian(png.substr(16))));
  value->mutable_image()->set_height(static_cast<std::int32_t>(big_endian(png.substr(20))));
  value->mutable_image()->set_colorspace(3);
  value->mutable_image()->set_encoded_image_string(std::string(png));
  append(event.SerializeAsString());
}

}  // namespace strata
