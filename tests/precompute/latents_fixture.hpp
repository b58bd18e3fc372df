#pragma once
// A few pictures, their index, and the options to cache their latents with the VAE of the goldens.

#include <filesystem>
#include <fstream>
#include <string>

#include "data/index.hpp"
#include "precompute/cache_latents.hpp"

namespace strata {

constexpr int fixture_images = 11;

/// Writes `dir`/index.jsonl over the decoding goldens.
inline void write_picture_index(const std::string& dir) {
  const char* names[] = {"rgb.png", "rgb-420.jpg", "lossy.webp", "wide.png", "tall.png", "odd.png"};
  std::ofstream list(dir + "/list.jsonl");
  for (int i = 0; i < fixture_images; ++i)
    list << "{\"image\": \"" << names[i % 6] << "\", \"caption\": \"picture " << i << "\"}\n";
  list.close();
  IndexOptions options;
  options.inputs = {dir + "/list.jsonl"};
  options.images = std::string(STRATA_SOURCE_DIR) + "/tests/golden/image";
  options.out = dir + "/index.jsonl";
  build_index(options);
}

inline LatentOptions latent_options(const std::string& dir, const std::string& out) {
  LatentOptions options;
  options.vae = std::string(STRATA_SOURCE_DIR) + "/tests/golden/vae/sd2";
  options.index = dir + "/index.jsonl";
  options.out = dir + "/" + out;
  options.resolution = 16;
  options.batch = 2;
  options.rows_per_shard = 3;
  return options;
}

}  // namespace strata
