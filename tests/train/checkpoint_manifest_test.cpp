// Manifests whose hash is right but whose content is not: what a bug or a forger could write.

#include "train/checkpoint_manifest.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "core/file.hpp"

namespace strata::checkpoint {
namespace {

using nlohmann::ordered_json;

Manifest good() {
  Manifest manifest;
  manifest.step = 12;
  manifest.world_size = 2;
  manifest.config_hash = "c";
  manifest.model_hash = "m";
  manifest.host_json = "{}";
  manifest.kinds = {"master", "m"};
  // 10 elements: 6 on the first rank, 4 on the second; two states each.
  manifest.files = {{shard_name(0, 2), 48, "a", {1}}, {shard_name(1, 2), 32, "b", {2}}};
  manifest.tensors = {{"w",
                       {2, 4},
                       ParamLayout::plain,
                       {{{0, 0, 0, 6}, {1, 0, 6, 2}}, {{0, 24, 0, 6}, {1, 16, 6, 2}}}},
                      {"b", {2}, ParamLayout::plain, {{{1, 8, 0, 2}}, {{1, 24, 0, 2}}}}};
  return manifest;
}

/// The text with its JSON changed and the hash made right again.
std::string forged(const std::function<void(ordered_json&)>& change) {
  ordered_json json = ordered_json::parse(to_text(good()));
  json.erase("sha256");
  change(json);
  std::string body = json.dump();
  body.pop_back();
  return body + ",\n\"sha256\": \"" + sha256_hex(body) + "\"}\n";
}

std::string problem_of(const std::string& text) {
  try {
    parse_manifest(text, "M");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    return error.what();
  }
  return "";
}

TEST(Manifest, RoundTrips) {
  const std::string text = to_text(good());
  const Manifest manifest = parse_manifest(text, "M");
  EXPECT_EQ(to_text(manifest), text);
  EXPECT_EQ(problem_of(forged([](ordered_json&) {})), "");
  EXPECT_EQ(manifest_hash(text).size(), 64u);
}

TEST(Manifest, WriterRefusesHoles) {
  Manifest manifest = good();
  check_tiles(manifest);
  manifest.tensors[0].pieces[0][1].count = 1;
  EXPECT_THROW(check_tiles(manifest), Error);
  manifest = good();
  manifest.files[0].bytes += 4;
  EXPECT_THROW(check_tiles(manifest), Error);
}

TEST(Manifest, EveryWrongContentIsRefused) {
  using Change = std::function<void(ordered_json&)>;
  const auto huge = std::uint64_t{1} << 63;
  const std::vector<Change> changes{
      [](auto& j) { j["format"] = "other"; },
      [](auto& j) { j["version"] = 2; },
      [](auto& j) { j.erase("step"); },
      [](auto& j) { j["step"] = -1; },
      [](auto& j) { j["step"] = 1.5; },
      [&](auto& j) { j["step"] = huge; },
      [](auto& j) { j["world_size"] = 0; },
      [](auto& j) { j["world_size"] = 1; },
      [](auto& j) { j["world_size"] = 1'000'000'000; },
      [](auto& j) { j["host"] = "text"; },
      [](auto& j) {
        j["kinds"] = {"master", "master"};
      },
      [](auto& j) {
        j["kinds"] = {"master", "v"};
      },
      [](auto& j) { j["kinds"] = {1}; },
      [](auto& j) { j["block_bytes"] = 512; },
      [](auto& j) { j["files"][0]["name"] = "../../etc/passwd"; },
      [](auto& j) { j["files"][0]["name"] = shard_name(1, 2); },
      [](auto& j) { j["files"].erase(1); },
      [](auto& j) { j["files"][0]["bytes"] = 52; },
      [](auto& j) { j["files"][0]["bytes"] = -48; },
      [&](auto& j) { j["files"][0]["bytes"] = huge; },
      [](auto& j) { j["files"][0]["crc32c"] = ordered_json::array(); },
      [](auto& j) { j["files"][0]["crc32c"][0] = std::uint64_t{1} << 32; },
      [](auto& j) { j["tensors"][1]["name"] = "w"; },
      [](auto& j) { j["tensors"][1]["dtype"] = "bf16"; },
      [](auto& j) { j["tensors"][1]["layout"] = "other"; },
      [](auto& j) { j["tensors"][1]["layout"] = "krsc"; },
      [](auto& j) { j["tensors"][1]["numel"] = 3; },
      [](auto& j) { j["tensors"][1]["shape"] = {3}; },
      [](auto& j) { j["tensors"][1]["shape"] = {-2}; },
      [](auto& j) {
        j["tensors"][1]["shape"] = {1, 1, 1, 1, 2};
      },
      [](auto& j) {
        j["tensors"][1]["shape"] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
      },
      [](auto& j) { j["tensors"].erase(1); },
      [](auto& j) { j["tensors"][0]["pieces"]["m"].erase(1); },
      [](auto& j) { j["tensors"][0]["pieces"].erase("m"); },
      [](auto& j) {
        j["tensors"][0]["pieces"]["m"][0] = {0, 24, 0};
      },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][0][0] = 2; },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][0][1] = 28; },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][0][1] = 0; },
      [&](auto& j) { j["tensors"][0]["pieces"]["m"][0][1] = huge; },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][1][2] = 5; },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][1][3] = 0; },
      [](auto& j) { j["tensors"][0]["pieces"]["m"][1][3] = 3; },
      [](auto& j) { j["tensors"] = 7; },
      [](auto& j) { j["more"] = 7; },
      [](auto& j) { j["files"][0]["more"] = 7; },
      [](auto& j) { j["tensors"][0]["more"] = 7; },
      [](auto& j) { j["tensors"][0]["pieces"]["more"] = ordered_json::array(); },
  };
  for (std::size_t i = 0; i < changes.size(); ++i)
    EXPECT_NE(problem_of(forged(changes[i])), "") << "change " << i << " is accepted";
}

TEST(Manifest, WhatIsNotJsonIsRefused) {
  for (const std::string body : {"", "{", "[1,2", "null", "{\"a\":1,\"a\":2"}) {
    const std::string text = body + ",\n\"sha256\": \"" + sha256_hex(body) + "\"}\n";
    EXPECT_NE(problem_of(text), "") << body;
  }
  EXPECT_NE(problem_of(""), "");
  EXPECT_NE(problem_of(std::string(1000, ' ')), "");
}

}  // namespace
}  // namespace strata::checkpoint
