#pragma once
// Convolutions through cuDNN's graph API. graphs.cpp alone includes its headers, which take the
// compiler longer than all else here.

#include <memory>

#include "core/exec.hpp"
#include "kernels/cuda/runtime.hpp"

namespace strata::cuda {

enum class ConvKind : std::int64_t { forward, input_gradient };

/// x (B,H,W,C), w (N,R,S,C), y (B,H',W',N), NHWC; the same padding on opposite sides.
struct ConvShape {
  DType dtype;
  std::int64_t batch, height, width, channels;  // of x
  std::int64_t outputs, rows, columns;          // of w
  std::int64_t stride, pad_rows, pad_columns;
  bool bias = false;

  std::int64_t out_height() const { return (height + 2 * pad_rows - rows) / stride + 1; }
  std::int64_t out_width() const { return (width + 2 * pad_columns - columns) / stride + 1; }
  bool operator==(const ConvShape&) const = default;
};

/// Pointers of one convolution, 16-byte aligned; y is read by the input gradient, which writes x.
struct ConvData {
  void *x, *y;
  const void *w, *bias;
};

/// cuDNN's plans, built once a shape: the first of its heuristics' choices that runs and always
/// adds in the same order, so that a resumed run repeats the choice.
class Graphs {
 public:
  Graphs();
  ~Graphs();
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  void conv(Exec& exec, cudaStream_t stream, ConvKind kind, const ConvShape& shape,
            const ConvData& data);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::cuda
