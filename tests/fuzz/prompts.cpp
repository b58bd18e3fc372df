// Prompt files of all formats, what may lie beside one (GenAI-Bench's skills, behind a line of four
// dashes), and the file names that ids become.

#include "evaluate/prompts.hpp"

#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const auto [prompts, skills] = fuzz::parts_of<2>(input);
  auto& folder = fuzz::memory_folder();
  folder.put_if_any("genai_skills.json", skills);
  const std::string& path = folder.put("prompts", prompts);
  fuzz::reads([&] {
    const PromptSet set = read_prompts(path);
    for (const std::string& name : image_file_names(set, 2))
      if (name.find('/') != std::string::npos || name.starts_with('.') || name.size() > 80)
        std::abort();
  });
}
