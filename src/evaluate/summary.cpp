#include "evaluate/summary.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "core/error.hpp"

namespace strata {

namespace {

using BySkill = std::map<std::string, std::vector<double>>;

// GenAI-Bench's five basic and five advanced skills (Li et al. 2024), with its two groups; a set
// may name them in full or by their first word.
constexpr std::array skill_order{
    "attribute", "scene",      "spatial",         "action",   "part",      "basic",
    "counting",  "comparison", "differentiation", "negation", "universal", "advanced"};

std::string first_word(const std::string& skill) {
  return skill.substr(0, skill.find(' '));
}

std::size_t rank_of(const std::string& skill) {
  return static_cast<std::size_t>(
      std::find(skill_order.begin(), skill_order.end(), first_word(skill)) - skill_order.begin());
}

std::vector<std::pair<std::string, Interval>> intervals(const BySkill& by_skill,
                                                        const BootstrapOptions& options) {
  std::vector<std::pair<std::string, Interval>> result;
  for (const auto& [skill, values] : by_skill)
    result.emplace_back(skill, bootstrap_mean(values, options));
  std::stable_sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    return rank_of(a.first) < rank_of(b.first);
  });
  return result;
}

}  // namespace

std::vector<PromptScore> by_prompt(const std::vector<ScoreRecord>& records) {
  std::vector<PromptScore> prompts;
  std::map<std::string, std::size_t> index;
  std::vector<double> images;
  for (const auto& record : records) {
    const auto [at, is_new] = index.try_emplace(record.id, prompts.size());
    if (is_new) {
      prompts.push_back({record.id, record.skills, 0, 0});
      images.push_back(0);
    }
    prompts[at->second].score += record.score;
    prompts[at->second].all_facts_hold += record.all_facts_hold ? 1 : 0;
    images[at->second] += 1;
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    prompts[i].score /= images[i];
    prompts[i].all_facts_hold /= images[i];
  }
  return prompts;
}

ScoreSummary summarise(const std::vector<ScoreRecord>& records, const BootstrapOptions& options) {
  std::vector<double> scores, whole;
  BySkill by_skill;
  for (const auto& prompt : by_prompt(records)) {
    scores.push_back(prompt.score);
    whole.push_back(prompt.all_facts_hold);
    for (const auto& skill : prompt.skills) by_skill[skill].push_back(prompt.score);
  }
  return {static_cast<std::int64_t>(records.size()), bootstrap_mean(scores, options),
          bootstrap_mean(whole, options), intervals(by_skill, options)};
}

Difference compare(const std::vector<ScoreRecord>& a, const std::vector<ScoreRecord>& b,
                   const BootstrapOptions& options) {
  std::map<std::string, double> other;
  for (const auto& prompt : by_prompt(b)) other[prompt.id] = prompt.score;
  std::vector<double> differences;
  BySkill by_skill;
  for (const auto& prompt : by_prompt(a)) {
    const auto found = other.find(prompt.id);
    if (found == other.end()) continue;
    differences.push_back(prompt.score - found->second);
    for (const auto& skill : prompt.skills) by_skill[skill].push_back(differences.back());
  }
  if (differences.empty())
    fail(Exit::data, "two score files share no prompt id: nothing to compare");
  return {bootstrap_mean(differences, options), intervals(by_skill, options)};
}

std::string skill_label(const std::string& skill) {
  if (skill == "spatial" || skill == "action" || skill == "part") return skill + " relation";
  return skill;
}

}  // namespace strata
