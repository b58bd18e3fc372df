// Prompt files of all formats, and the file names that ids become.

#include "evaluate/prompts.hpp"

#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string& path = fuzz::memory_file().holding(input);
  fuzz::reads([&] {
    const PromptSet set = read_prompts(path);
    for (const std::string& name : image_file_names(set, 2))
      if (name.find('/') != std::string::npos || name.starts_with('.') || name.size() > 80)
        std::abort();
  });
}
