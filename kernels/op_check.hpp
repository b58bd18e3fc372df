#pragma once
// What the public edge of the ops shares.

#include <array>
#include <cstring>
#include <exception>

#include "core/spans.hpp"
#include "kernels/backend.hpp"

namespace strata::ops {

/// One call of an op: a span of time, and what the op demands of its arguments; a broken demand is
/// Error(70) naming op and tensor. While spans are kept, its bytes are those of all tensors that it
/// was checked for, each once, and on a device the op is waited for, so that the span is its time
/// (unless it is recorded: then nothing is done yet).
class Check {
 public:
  Check(Exec& exec, const char* op) : exec_(exec), op_(op), span_(op, "op") {}
  ~Check() {
    if (span_.is_kept() && exec_.device() != host_device && !is_recording() &&
        std::uncaught_exceptions() == 0)
      exec_.backend().synchronize();
  }
  Check(const Check&) = delete;
  Check& operator=(const Check&) = delete;

  /// Operations that the call stands for.
  void flops(double operations) const {
    if (span_.is_kept()) span_.add_work(operations, 0);
  }

  /// Present, on the device, of this dtype and shape.
  const Check& is(const char* name, const Tensor& t, DType dtype, const Shape& shape) const {
    present(name, t);
    if (t.dtype != dtype || !(t.shape == shape))
      wrong(name, t, fmt::format("{} {}", to_string(shape), name_of(dtype)));
    return *this;
  }
  const Check& optional(const char* name, const Tensor& t, DType dtype, const Shape& shape) const {
    return t ? is(name, t, dtype, shape) : *this;
  }
  /// Of this dtype, with `rows` rows of `width` whatever the leading axes.
  const Check& matrix(const char* name, const Tensor& t, DType dtype, std::int64_t rows,
                      std::int64_t width) const {
    present(name, t);
    if (t.dtype != dtype || t.shape.rank() < 1 || t.shape[-1] != width || t.numel() != rows * width)
      wrong(name, t, fmt::format("({} x {}) {}", rows, width, name_of(dtype)));
    return *this;
  }
  /// An activation: f32 or bf16, of at least this rank.
  const Check& activation(const char* name, const Tensor& t, int rank = 1) const {
    floating(name, t);
    if (t.shape.rank() < rank) wrong(name, t, fmt::format("rank >= {}", rank));
    return *this;
  }
  const Check& rank(const char* name, const Tensor& t, int rank) const {
    present(name, t);
    if (t.shape.rank() != rank) wrong(name, t, fmt::format("rank {}", rank));
    return *this;
  }
  const Check& floating(const char* name, const Tensor& t) const {
    present(name, t);
    if (t.dtype != DType::f32 && t.dtype != DType::bf16) wrong(name, t, "f32 or bf16");
    return *this;
  }
  const Check& elements(const char* name, const Tensor& t, std::int64_t count) const {
    present(name, t);
    if (t.numel() != count) wrong(name, t, fmt::format("{} elements", count));
    return *this;
  }
  /// Present, on the host whatever the device, i64 of this shape.
  const Check& counts(const char* name, const Tensor& t, const Shape& shape) const {
    if (!t || !(t.device == host_device) || t.dtype != DType::i64 || !(t.shape == shape))
      fail(Exit::internal, "{}: {} must be {} i64 on the host", op_, name, to_string(shape));
    return *this;
  }
  /// The same, on the host or on the device.
  const Check& indices(const char* name, const Tensor& t, const Shape& shape) const {
    return t.device == host_device ? counts(name, t, shape) : is(name, t, DType::i64, shape);
  }
  template <class... Args>
  const Check& that(bool condition, fmt::format_string<Args...> text, Args&&... args) const {
    if (!condition)
      fail(Exit::internal, "{}: {}", op_, fmt::format(text, std::forward<Args>(args)...));
    return *this;
  }

 private:
  void present(const char* name, const Tensor& t) const {
    if (!t) fail(Exit::internal, "{}: {} is absent", op_, name);
    if (!(t.device == exec_.device()))
      fail(Exit::internal, "{}: {} is on another device", op_, name);
    if (span_.is_kept()) [[unlikely]]
      count(name, t);
  }
  /// A tensor is checked several times, by the same name.
  void count(const char* name, const Tensor& t) const {
    for (std::size_t i = 0; i < counted_; ++i)
      if (std::strcmp(names_[i], name) == 0) return;
    if (counted_ == names_.size()) return;
    names_[counted_++] = name;
    span_.add_work(0, static_cast<double>(t.bytes()));
  }
  [[noreturn]] void wrong(const char* name, const Tensor& t, const std::string& expected) const {
    fail(Exit::internal, "{}: {} is {} {}, expected {}", op_, name, to_string(t.shape),
         name_of(t.dtype), expected);
  }

  Exec& exec_;
  const char* op_;
  mutable spans::Span span_;
  mutable std::array<const char*, 16> names_;
  mutable std::size_t counted_ = 0;
};

}  // namespace strata::ops
