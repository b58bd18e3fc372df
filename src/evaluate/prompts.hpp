#pragma once
// Prompt sets: JSON lines, plain text, or GenAI-Bench's two files as published.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

struct Prompt {
  std::string id;
  std::string text;       // the prompt as published
  std::string upsampled;  // detailed version; empty where the file has none
  std::vector<std::string> skills;
  std::string others;    // the further fields of its JSON object, as one; empty where none are
  std::int64_t row = 0;  // in the prompt file, from 0
};

enum class TextField { prompt, upsampled };

struct PromptSet {
  std::vector<Prompt> prompts;  // ids are unique
  std::string sha256;           // of the prompt file
};

/// The format is told by the content: lines of JSON objects (`id`, `prompt`, optional `upsampled`
/// and `skills`), one JSON object of GenAI-Bench's `genai_image.json` (skills from
/// `genai_skills.json` beside it, where there is one), or plain text, one prompt a line, id = line
/// number in five digits. Bounded: 256 MB a file, 1 MB a line, JSON depth 16. Error(65) names file,
/// line and fault: broken JSON, missing field, duplicate id, invalid UTF-8, no prompt at all.
PromptSet read_prompts(const std::string& path);

/// The text of the field asked for; Error(65) naming the id when a prompt has no upsampled text.
const std::string& text_of(const Prompt& prompt, TextField field);

/// File name of image k of a prompt: the id itself where it is [A-Za-z0-9_-]{1,64}, else its
/// SHA-256; then "-k" for k > 0; then ".png". Never leaves the folder whatever the id holds.
std::string image_file_name(std::string_view id, int k);

/// Names of all images of a set, prompt-major. Error(65) when two images would share a name.
std::vector<std::string> image_file_names(const PromptSet& set, int images_per_prompt);

}  // namespace strata
