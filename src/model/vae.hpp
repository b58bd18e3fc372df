#pragma once

#include <memory>
#include <string>

#include "model/parameters.hpp"

namespace strata {

/// What the encoder says of an image: a diagonal Gaussian over unscaled latents. Both (B,h,w,C) f32
/// on the host; logvar is clamped to [-30, 20].
struct Moments {
  Buffer mean, logvar;
};

/// How the latents x of a diffusion model follow from the VAE's z: x = (z - shift) * scale.
struct LatentScaling {
  float scale = 0.18215f, shift = 0;
  float to_model(float z) const { return (z - shift) * scale; }
  float to_vae(float x) const { return x / scale + shift; }
};

/// AutoencoderKL of latent diffusion (Rombach et al., CVPR 2022), frozen: forward only.
class Vae {
 public:
  /// dir: the module's folder, or the pipeline folder that holds `vae/`. Error(65) names the file
  /// and the key. compute: f32 or bf16.
  static Vae load(const std::string& dir, DType compute = DType::f32, Device device = host_device);
  ~Vae();
  Vae(Vae&&) noexcept;

  /// image (B,H,W,3) f32 in [-1,1] on exec's device.
  Moments encode(Exec&, Tensor image) const;
  /// latent (B,h,w,C) f32, unscaled -> image (B,H,W,3) f32 from the arena, not clamped.
  Tensor decode(Exec&, Tensor latent) const;

  const LatentScaling& scaling() const;
  /// Pixels a latent pixel covers along each axis.
  int downsample_factor() const;
  int latent_channels() const;
  const ParameterTable& parameters() const;
  /// SHA-256 over the weight files, hex.
  const std::string& weights_sha256() const;

 private:
  struct Impl;
  explicit Vae(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
