#pragma once
// The unigram language model (Kudo 2018): of all ways to cut a word into tokens the most probable.

#include "text/byte_trie.hpp"
#include "text/subword_model.hpp"

namespace strata {

class UnigramModel : public SubwordModel {
 public:
  /// {"type": "Unigram", "vocab": [[token, log probability], ...], "unk_id", "byte_fallback"}
  UnigramModel(const nlohmann::json& description, const std::string& where);

 protected:
  /// Viterbi (in f64, the earlier path on equal scores); neighbouring unknown characters make one
  /// token.
  std::vector<std::int32_t> segment(std::string_view word) const override;

 private:
  /// A word's best path ends at `end` with this token.
  struct Step {
    double score = 0;
    std::size_t begin = 0;
    std::int32_t id = -1;  // -1: no path yet
  };
  std::vector<Step> best_steps(std::string_view word) const;
  void append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const;

  std::string where_;
  std::vector<double> scores_;  // by id
  ByteTrie trie_;
  std::int32_t unknown_ = -1;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
  std::vector<std::int32_t> byte_ids_;
};

}  // namespace strata
