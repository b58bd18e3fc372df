#pragma once
// Convolutions and attention through cuDNN's graph API. graphs.cpp alone includes its headers,
// which take the compiler longer than all else here.

#include <memory>
#include <optional>
#include <string>

#include "core/exec.hpp"
#include "kernels/cuda/runtime.hpp"

namespace strata::cuda {

enum class ConvKind : std::int64_t { forward, input_gradient, weight_gradient };

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

/// Pointers of one convolution, 16-byte aligned. Gradients are in the places of what they are
/// gradients of: the input's reads y and writes x, the weight's reads x and y and adds to w (f32).
struct ConvData {
  void *x, *y, *w, *bias = nullptr;
};

/// Whether cuDNN has engines for ConvKind::weight_gradient.
bool adds_weight_gradients(DType dtype, std::int64_t channels, std::int64_t outputs);

/// Softmax attention of `batch` sequences, rows as in ops.hpp, bf16.
struct AttentionShape {
  std::int64_t batch, heads, key_heads, width;
  std::int64_t queries, keys;  // of every sequence, or (ragged) at least those of the longest
  bool ragged = false;         // lengths and offsets are read on the device
  bool causal = false;
  float scale = 1;
  bool backward = false;
  bool keeps_lse = false;
  bool operator==(const AttentionShape&) const = default;
};

/// Pointers of one attention, 16-byte aligned. lse lies as (batch, heads, queries), ragged as
/// (rows, heads).
struct AttentionData {
  void *q, *k, *v, *o, *lse;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr, *dout = nullptr;
  // Ragged: rows of each sequence (batch) i32; where its elements of q, k and lse begin
  // (batch + 1) i64.
  void *q_lengths = nullptr, *k_lengths = nullptr;
  void *q_offsets = nullptr, *k_offsets = nullptr, *lse_offsets = nullptr;
};

/// cuDNN's plans, built once a shape, of engines that always add in the same order: the first of
/// its heuristics' choices that runs, or, measured, the fastest of the first few.
class Graphs {
 public:
  Graphs();
  ~Graphs();
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  /// Choices are kept below the folder (plan_cache.hpp).
  void measure_choices(const std::string& folder) { folder_ = folder; }

  void conv(Exec& exec, cudaStream_t stream, ConvKind kind, const ConvShape& shape,
            const ConvData& data);
  void attention(Exec& exec, cudaStream_t stream, const AttentionShape& shape,
                 const AttentionData& data);

 private:
  class Impl;
  struct Call;
  Impl& impl();
  std::unique_ptr<Impl> impl_;
  std::optional<std::string> folder_;  // of measured choices
};

}  // namespace strata::cuda
