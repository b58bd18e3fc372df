#pragma once
// From scores of images to what a table shows.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evaluate/scores.hpp"
#include "evaluate/statistics.hpp"

namespace strata {

/// Scores of one prompt: the mean over its images.
struct PromptScore {
  std::string id;
  std::vector<std::string> skills;
  double score = 0, all_facts_hold = 0;
};

/// In the order in which the prompts first occur.
std::vector<PromptScore> by_prompt(const std::vector<ScoreRecord>& records);

struct ScoreSummary {
  std::int64_t images = 0;
  Interval overall;         // mean over prompts, not over skills
  Interval all_facts_hold;  // share of pictures in which the whole prompt is right
  std::vector<std::pair<std::string, Interval>> skills;  // in GenAI-Bench's order, then by name
};

ScoreSummary summarise(const std::vector<ScoreRecord>& records,
                       const BootstrapOptions& options = {});

/// a - b over the prompts that both have, overall and by skill (a's tags).
struct Difference {
  Interval overall;
  std::vector<std::pair<std::string, Interval>> skills;
};

/// Error(65) when they share no prompt.
Difference compare(const std::vector<ScoreRecord>& a, const std::vector<ScoreRecord>& b,
                   const BootstrapOptions& options = {});

/// "spatial" or "spatial relation" -> "spatial relation": as a table prints it.
std::string skill_label(const std::string& skill);

}  // namespace strata
