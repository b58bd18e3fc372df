#include "model/next_token.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace strata {

namespace {

struct Candidate {
  std::int32_t id;
  double weight;  // its probability, times what all weights sum to
};

/// Less likely first; of equals the larger id, so that a heap yields the smaller.
bool is_behind(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight < b.weight : a.id > b.id;
}

/// Moves the candidates that top_p keeps to the end of the list, the rest is cut off; their weight.
double keep_nucleus(std::vector<Candidate>& candidates, double wanted) {
  std::make_heap(candidates.begin(), candidates.end(), is_behind);
  double kept = 0;
  auto end = candidates.end();
  while (end != candidates.begin() && kept < wanted) {
    std::pop_heap(candidates.begin(), end, is_behind);
    kept += (--end)->weight;
  }
  candidates.erase(candidates.begin(), end);
  return kept;
}

double capped(double logit, double softcap) {
  return softcap > 0 ? softcap * std::tanh(logit / softcap) : logit;
}

/// A logit that every one with a capped value of at least `value` reaches.
double uncapped(double value, double softcap) {
  if (softcap <= 0) return value;
  const double lowest = softcap * std::atanh(std::clamp(value / softcap, -1.0, 1 - 1e-9));
  return lowest - 1e-6 * std::abs(lowest);  // the rounding of tanh and its inverse
}

/// In [0, 1), of 53 bits.
double draw(const SamplingOptions& options, std::uint64_t row, std::uint32_t position) {
  const auto words = random_block({options.seed}, {row, 0, Purpose::next_token}, position);
  return static_cast<double>((std::uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;
}

}  // namespace

std::int32_t next_token(std::span<const float> logits, float softcap,
                        const SamplingOptions& options, std::uint64_t row, std::uint32_t position) {
  STRATA_CHECK(!logits.empty());
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (!std::isfinite(logits[i]))
      fail(Exit::numerics, "text {}, new token {}: the logit of id {} is not finite", row, position,
           i);
  const auto best = std::max_element(logits.begin(), logits.end());  // the cap keeps the order
  if (options.temperature <= 0) return static_cast<std::int32_t>(best - logits.begin());

  constexpr double negligible = -100;  // exp of it is lost beside the best one's 1
  const double largest = capped(*best, softcap);
  const double floor = uncapped(largest + negligible * options.temperature, softcap);
  std::vector<Candidate> candidates;
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < floor) continue;  // spares tanh and exp of a large vocabulary
    const double score = (capped(logits[i], softcap) - largest) / options.temperature;
    if (score < negligible) continue;
    candidates.push_back({static_cast<std::int32_t>(i), std::exp(score)});
    sum += candidates.back().weight;
  }
  if (options.top_p < 1) sum = keep_nucleus(candidates, options.top_p * sum);
  double left = draw(options, row, position) * sum;
  for (const Candidate& candidate : candidates)
    if ((left -= candidate.weight) < 0) return candidate.id;
  return candidates.back().id;  // rounding
}

}  // namespace strata
