#pragma once
// The small world as files: what a user would have on disk, for `strata world`.

#include <cstdint>
#include <string>
#include <vector>

#include "data/image.hpp"
#include "evaluate/world.hpp"

namespace strata::world {

/// Scenes number first, first + 1, ... of a seed. Training and evaluation scenes never share a
/// number.
struct Draw {
  std::uint64_t seed = 17;
  std::int64_t first = 0, count = 1000;
  bool evaluation = false;
  Options options;
};

/// "counting,spatial" -> odds 1 for these and 0 for the others; an unknown name is Error(64).
std::array<unsigned, skill_count> parse_skills(const std::string& list);

strata::Image to_image(const Image& image);

/// out/000000.png, ... and out/captions.jsonl ({"image", "caption"} a line), the latter last.
void write_folder(const Draw& draw, const std::string& out);
/// out/shard-00000.tar, ... as webdataset lays them out: KEY.png and KEY.txt, per_shard samples
/// each.
void write_shards(const Draw& draw, const std::string& out, std::int64_t per_shard);
/// JSON lines {"id", "prompt", "skills"} with `count` different captions, drawn in order; Error(64)
/// where the world has not so many. pictures: a folder for their true pictures ID.png, or empty.
void write_prompts(const Draw& draw, const std::string& path, const std::string& pictures = {});

}  // namespace strata::world
