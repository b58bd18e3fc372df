#pragma once
// Short prompts or training captions -> detailed ones, written by an instruction-tuned decoder
// model; over ranks, resumable, the same bytes whatever happened on the way.

#include <functional>
#include <string>
#include <vector>

#include "dist/communicator.hpp"

namespace strata {

/// The texts to upsample and what becomes of them.
struct UpsampleWork {
  std::string sha256;  // of the input file
  std::vector<std::string> prompts;
  /// Row `row` of the output file, without its LF.
  std::function<std::string(std::size_t row, const std::string& upsampled)> line;
};

/// A prompt file in any of the formats of read_prompts -> JSON lines with `upsampled` filled (what
/// it held before is replaced), all other fields kept.
UpsampleWork upsample_prompts(const std::string& path);
/// index.jsonl -> an index whose `caption` is the upsampled one; `captions` begins with it, then
/// come those that were there. Relative image names are made relative to the folder of `out`.
UpsampleWork upsample_index(const std::string& path, const std::string& out);

/// The built-in instructions, of our own wording (the paper's purpose, appendix B.1).
std::string default_instructions();
/// What the model is told: the instructions with the prompt in the place of every "{prompt}", or
/// after an empty line where they have none.
std::string instruct(const std::string& instructions, const std::string& prompt);

struct UpsampleOptions {
  std::string out;
  std::string plan;  // everything else that the output depends on
  bool overwrite = false;
};
struct UpsampleReport {
  std::size_t rows = 0, made = 0, empty = 0;  // made: in this call; empty: keep their prompt
};

/// Upsamples the rows asked for, in any order, calling done(row, text) as each is ready.
using UpsampleRows =
    std::function<void(const std::vector<std::size_t>& rows,
                       const std::function<void(std::size_t row, const std::string& text)>& done)>;

/// Collective. Rows that `.partial/` beside `out` holds are not made again; the others are dealt
/// out to the ranks; then rank 0 writes `out`. A text is trimmed; where nothing is left the prompt
/// itself stands for it, and a blank prompt is not asked about. Error(73) when `out` exists or
/// unfinished work is of another plan, unless overwrite; Error(76) when another live job writes
/// `out`.
UpsampleReport upsample(Communicator&, const UpsampleWork&, const UpsampleOptions&,
                        const UpsampleRows&);

}  // namespace strata
