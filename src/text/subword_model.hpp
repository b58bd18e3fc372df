#pragma once
// What cuts one word into tokens.

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.hpp"

namespace strata {

class SubwordModel {
 public:
  virtual ~SubwordModel() = default;

  /// Appends the ids of one pre-tokenized word (valid UTF-8). Near linear in its length.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  virtual std::vector<std::int32_t> segment(std::string_view word) const = 0;
  /// The ids of <0x00> .. <0xFF>, -1 where there is none.
  std::vector<std::int32_t> byte_ids() const;
  /// Appends the byte tokens of `text`; false (and nothing appended) when one is missing.
  static bool append_bytes(std::string_view text, const std::vector<std::int32_t>& byte_ids,
                           std::vector<std::int32_t>& ids);

  Vocabulary vocabulary_;

 private:
  mutable TextMap<std::vector<std::int32_t>> cache_;  // of the words met lately
};

/// The "model" object of tokenizer.json: BPE or Unigram. Error(65) names any other type, and what
/// is unsound.
std::unique_ptr<SubwordModel> make_subword_model(const nlohmann::json& description,
                                                 const std::string& where);

}  // namespace strata
