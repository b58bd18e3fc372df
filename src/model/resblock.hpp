#pragma once

#include <optional>

#include "model/layers.hpp"

namespace strata {

/// diffusers' ResnetBlock2D: norm, SiLU, conv, + time embedding, norm, SiLU, conv, + shortcut.
class ResBlock {
 public:
  struct Config {
    std::int64_t in, out;
    std::int64_t time_dim;  // 0: no time embedding (the VAE)
    std::int64_t groups;
    float eps;
  };
  struct Saved {
    Tensor x, time, stats1, normed1, hidden, stats2, normed2;
  };

  ResBlock(ParameterTable&, const std::string& name, const Config&);

  /// x (B,H,W,in), time (B,time_dim) after SiLU or absent -> (B,H,W,out), in y where given.
  Tensor forward(Exec&, const Weights&, Tensor x, Tensor time, Saved*, Tensor y = {}) const;
  /// dy -> dx; dtime (B,time_dim) f32 is accumulated.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dx, Tensor dtime,
                Tensor dy) const;
  void count(Flops&, double pixels) const;
  std::span<const ParamId> ids() const { return ids_; }
  std::int64_t out() const { return conv2_.out(); }

 private:
  GroupNorm norm1_, norm2_;
  Conv2d conv1_, conv2_;
  std::optional<Linear> time_proj_, shortcut_;
  std::vector<ParamId> ids_;
};

}  // namespace strata
