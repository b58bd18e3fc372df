#pragma once

#include "model/layers.hpp"

namespace strata {

/// Rows of all sequences laid end to end: sequence b owns rows [offsets[b], offsets[b+1]).
struct Ragged {
  Tensor rows;     // (T,C)
  Tensor offsets;  // (B+1) i64 on the host; of text also on the device
  /// Of any sequence, at least; needed where the offsets are on the device.
  std::int64_t longest = 0;
};

/// Multi-head attention with its projections, diffusers' naming of them.
class Attention {
 public:
  struct Names {
    std::string q = "to_q", k = "to_k", v = "to_v", out = "to_out.0";
  };
  struct Config {
    std::int64_t width;    // of x, of the heads together and of the result
    std::int64_t context;  // of the rows that keys and values come from
    std::int64_t heads;
    bool qkv_bias = false;
    Names names = {};
  };
  struct Saved {
    Tensor x, q_offsets, context, k_offsets, q, k, v, o, lse;
    std::int64_t longest_keys = 0;
  };

  Attention() = default;
  Attention(ParameterTable&, const std::string& name, const Config&);

  /// Every row of x attends to the context rows of its own sequence; none there gives 0 before
  /// `to_out`. (Tq,width) -> (Tq,width), in y where given.
  Tensor forward(Exec&, const Weights&, Ragged x, Ragged context, Saved*, Tensor y = {}) const;
  /// dx is assigned. Where the context was x itself its gradient is part of dx; otherwise it is
  /// accumulated in dcontext (Tk,context) f32, unless that is absent.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dx, Tensor dcontext,
                Tensor dy) const;
  void count(Flops&, double queries, double keys) const;

 private:
  ops::AttentionParams params(std::int64_t longest_keys) const;
  Shape head_shape(const Tensor& rows) const { return {rows.shape[0], heads_, width_ / heads_}; }

  Linear to_q_, to_k_, to_v_, to_out_;
  std::int64_t width_ = 0, heads_ = 1;
};

}  // namespace strata
