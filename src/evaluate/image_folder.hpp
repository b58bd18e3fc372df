#pragma once
// A folder of images made from a prompt set: over ranks, resumable, the same bytes whatever
// happened on the way. Every PNG carries its own settings, and those decide whether a found image
// may stay.

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dist/communicator.hpp"
#include "evaluate/generate.hpp"
#include "evaluate/prompts.hpp"

namespace strata {

struct ImageFolderOptions {
  std::string out;
  std::vector<double> cfg{7.0};  // more than one: subfolders cfg-7.0, cfg-5.0, ...
  int steps = 50;
  std::string sampler = "ddim";
  std::uint64_t seed = 0;  // of prompt 0; prompt r of the file has seed + r
  int images_per_prompt = 1;
  int batch = 8;  // images that one call of the maker gets at most
  int tile = 0;   // GenerateOptions::tile
  TextField field = TextField::prompt;
  std::string checkpoint;  // hash of the weights, for the manifest
  /// Whatever else an image depends on, by name; kept in every PNG and line of the manifest.
  std::vector<std::pair<std::string, std::string>> settings{};
  bool overwrite = false;  // images of other settings are replaced instead of refused
};

/// One image to make. `request.prompt` is the row in the prompt set.
using MakeImages =
    std::function<std::vector<Image>(std::span<const ImageRequest> requests, double cfg)>;

/// "cfg-7.0"
std::string guidance_folder(double cfg);
/// Where the images of this guidance go: `out`, or in a sweep its subfolder.
std::string image_folder(const ImageFolderOptions& options, double cfg);

/// Collective. Finds which images are missing or damaged, shares them out over the ranks, writes
/// each atomically and, when all are there, `manifest.jsonl`. An image of other settings is
/// Error(73) unless `overwrite`. Returns how many images were made on all ranks together.
std::int64_t fill_image_folder(Communicator& communicator, const PromptSet& set,
                               const ImageFolderOptions& options, const MakeImages& make);

}  // namespace strata
