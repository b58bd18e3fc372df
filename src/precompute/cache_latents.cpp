#include "precompute/cache_latents.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>

#include "core/error.hpp"
#include "core/log.hpp"
#include "core/transfer.hpp"
#include "data/index.hpp"
#include "kernels/ops.hpp"
#include "model/vae.hpp"
#include "precompute/shared_build.hpp"

namespace strata {

namespace {

std::string_view name_of(Resample filter) {
  switch (filter) {
    case Resample::bilinear:
      return "bilinear";
    case Resample::bicubic:
      return "bicubic";
    case Resample::lanczos:
      return "lanczos";
  }
  return "?";
}

/// The last component of a folder's path, whatever slashes it ends with.
std::string folder_name(const std::string& dir) {
  const auto path = (std::filesystem::absolute(dir) / ".").lexically_normal();
  return path.parent_path().filename().string();
}

CachePlan make_plan(const LatentOptions& options, const Vae& vae, const Index& index) {
  const int side = options.resolution / vae.downsample_factor();
  const std::int64_t channels = vae.latent_channels() * (options.kind == "moments" ? 2 : 1);
  CachePlan plan;
  CacheManifest& m = plan.manifest;
  m.kind = CacheKind::latent;
  m.count = index.size();
  m.dim = channels;
  m.shape = {channels, side, side};
  m.dtype = options.dtype;
  m.model = folder_name(options.vae);
  m.weights_sha256 = vae.weights_sha256();
  m.index_sha256 = index.sha256();
  m.latent_kind = options.kind;
  m.latent_scaled = true;
  const auto row_bytes = static_cast<std::int64_t>(size_of(options.dtype)) * m.elements();
  plan.rows_per_shard = options.rows_per_shard > 0 ? options.rows_per_shard
                                                   : default_rows_per_shard(m.count, row_bytes);
  plan.details =
      fmt::format("resolution={} resample={} compute={} batch={} seed={}", options.resolution,
                  name_of(options.resample), name_of(options.compute), options.batch,
                  options.kind == "sample" ? std::to_string(options.seed) : "none");
  if (!(options.device == host_device)) plan.details += " device=cuda";
  return plan;
}

void check(const LatentOptions& options, const Vae& vae) {
  if (options.kind != "sample" && options.kind != "mean" && options.kind != "moments")
    fail(Exit::usage, "--kind {}: sample, mean or moments", options.kind);
  if (options.dtype == CacheDType::int8) fail(Exit::usage, "--dtype int8: is for text caches only");
  if (options.batch < 1) fail(Exit::usage, "--batch {}: at least 1", options.batch);
  const int factor = vae.downsample_factor();
  if (options.resolution < factor || options.resolution > 8192 || options.resolution % factor != 0)
    fail(Exit::usage, "--resolution {}: a multiple of the VAE's {} up to 8192", options.resolution,
         factor);
}

/// Decoded, resized and cropped images of samples [first, first + rows) as (rows, R, R, 3) f32 in
/// [-1, 1].
Tensor load_images(Exec& exec, const Index& index, const LatentOptions& options, std::int64_t first,
                   std::int64_t rows) {
  const std::int64_t side = options.resolution;
  Tensor images = exec.empty(DType::f32, {rows, side, side, 3});
  for (std::int64_t i = 0; i < rows; ++i) {
    const DecodeResult decoded = decode_image(index.read_image(first + i));
    if (!decoded)
      fail(Exit::data, "{}: sample {}: {}: {}", index.path(), first + i, index[first + i].image,
           decoded.error);
    to_unit_range(resize_and_centre_crop(decoded.image, options.resolution, options.resample),
                  images.as<float>() + i * side * side * 3);
  }
  return images;
}

/// Moments (B,h,w,C) -> (B,2C,h,w) [mean | std] of the latents that the diffusion model takes.
Tensor scale_moments(Exec& exec, const Moments& moments, const LatentScaling& scaling) {
  const Shape shape = moments.mean.tensor().shape;
  const std::int64_t batch = shape[0], pixels = shape[1] * shape[2], channels = shape[3];
  const Tensor scaled = exec.empty(DType::f32, {batch, 2 * channels, shape[1], shape[2]});
  const float* mean = moments.mean.as<float>();
  const float* logvar = moments.logvar.as<float>();
  float* out = scaled.as<float>();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t p = 0; p < pixels; ++p) {
        const std::int64_t from = (b * pixels + p) * channels + c;
        float* to = out + (2 * b * channels + c) * pixels + p;
        to[0] = scaling.to_model(mean[from]);
        to[channels * pixels] = scaling.scale * std::exp(0.5f * logvar[from]);
      }
  return scaled;
}

/// One draw (B,C,h,w) from each posterior (B,2C,h,w); row i is sample first + i.
Tensor draw(Exec& exec, Tensor moments, std::uint64_t seed, std::int64_t first) {
  Shape shape = moments.shape;
  shape[1] /= 2;
  const Tensor latents = exec.empty(DType::f32, shape);
  std::vector<PhiloxCounter> counters;
  for (std::int64_t i = 0; i < shape[0]; ++i)
    counters.push_back({static_cast<std::uint64_t>(first + i), 0, Purpose::posterior});
  ops::normals(exec, latents, {seed}, counters.data());
  ops::draw_posterior(exec, latents, moments, latents);
  return latents;
}

/// What is stored of samples [first, first + B), a row each: (B,C,h,w), or all of the moments.
Tensor values_to_store(Exec& exec, Tensor moments, const LatentOptions& options,
                       std::int64_t first) {
  const Shape& s = moments.shape;
  if (options.kind == "moments") return moments;
  if (options.kind == "sample") return draw(exec, moments, options.seed, first);
  const Tensor means = exec.empty(DType::f32, {s[0], s[1] / 2, s[2], s[3]});
  const std::int64_t row = means.numel() / s[0];
  for (std::int64_t b = 0; b < s[0]; ++b)
    std::copy_n(moments.as<float>() + 2 * b * row, row, means.as<float>() + b * row);
  return means;
}

}  // namespace

bool cache_latents(const LatentOptions& options, Communicator& communicator) {
  const Index index = Index::load(options.index);
  const Vae vae = Vae::load(options.vae, options.compute, options.device);
  check(options, vae);
  Exec host;
  std::optional<Exec> device;  // of the VAE, where that is not the host
  if (!(options.device == host_device)) device.emplace(options.device);
  CacheBuilder builder(options.out, make_plan(options, vae, index));
  const CachePlan& plan = builder.plan();
  const SharedBuild job{std::span(&builder, 1), options.overwrite, "cache latents", "images"};
  const bool built = build_shared(
      communicator, job,
      [&](std::int64_t shard, std::span<CacheBuilder* const> unfinished, const ReportRows& report) {
        const std::int64_t begin = plan.first_row(shard), end = begin + plan.rows_in(shard);
        std::vector<std::int64_t> samples(static_cast<std::size_t>(end - begin));
        std::iota(samples.begin(), samples.end(), begin);
        ShardWriter writer = unfinished.front()->begin_shard(shard, samples);
        for (std::int64_t first = begin; first < end; first += options.batch) {
          Exec& exec = device ? *device : host;
          const ArenaScope scope(host.arena), device_scope(exec.arena);
          const std::int64_t rows = std::min<std::int64_t>(options.batch, end - first);
          const Tensor images = on_device(exec, load_images(host, index, options, first, rows));
          const Tensor moments = scale_moments(host, vae.encode(exec, images), vae.scaling());
          const Tensor values = values_to_store(host, moments, options, first);
          for (std::int64_t i = 0; i < rows; ++i) writer.append(values.rows(i, i + 1));
          report(rows, "");
        }
        writer.finish();
      });
  log::info("{}: {}{} latents of {}x{}x{}", options.out,
            built ? "" : "complete already: ", plan.manifest.count, plan.manifest.shape[0],
            plan.manifest.shape[1], plan.manifest.shape[2]);
  return built;
}

}  // namespace strata
