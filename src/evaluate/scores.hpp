#pragma once
// Scores of images, one record an image, as `strata score` writes and `strata report` reads them.

#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "evaluate/prompts.hpp"

namespace strata {

struct ScoreRecord {
  std::string id;      // of the prompt whose text was judged
  std::string image;   // file name in the images folder
  std::string prompt;  // the text judged
  std::vector<std::string> skills;
  double score = 0;             // in [0, 1]
  bool all_facts_hold = false;  // the whole prompt is right
  bool mismatched = false;      // the image was made for another prompt
};

/// One JSON object a line, the fields of ScoreRecord in that order and `scorer`.
std::string to_json_line(const ScoreRecord& record, const std::string& scorer);
/// Error(65) naming file and line for what is no such record.
std::vector<ScoreRecord> read_scores(const std::string& path);

/// For each prompt another one with a different text, by a shuffle that only `seed` decides.
/// Error(65) when all texts are equal.
std::vector<std::size_t> mismatched_prompts(const PromptSet& set, std::uint64_t seed);

struct ScoreOptions {
  std::string images;         // folder of `strata sample`: <id>.png, further ones <id>-k.png
  int images_per_prompt = 0;  // 0: as many as there are, at least one
  bool mismatched = false;  // judge every text by the pictures of another prompt: the chance level
  std::uint64_t seed = 17;  // of the mismatching
};

/// The exact judge of the small world over all prompts, in the order of the prompt file.
/// Collective: the prompts are shared out over the ranks, every rank gets all records. A missing,
/// broken or wrongly sized picture and a text that is no caption of the world are Error(65).
std::vector<ScoreRecord> score_world(Communicator& communicator, const PromptSet& set,
                                     const ScoreOptions& options);

}  // namespace strata
