#pragma once
// Byte-pair encoding (Sennrich et al. 2016): a word's characters are joined, pair by pair, in the
// order of a list of merges.

#include <optional>
#include <unordered_map>

#include "text/subword_model.hpp"

namespace strata {

class BytePairModel : public SubwordModel {
 public:
  /// {"type": "BPE", "vocab": {token: id}, "merges", ...}; Error(65) naming `where` when it is not
  /// sound.
  BytePairModel(const nlohmann::json& description, const std::string& where);

 protected:
  /// O(n log n) in the word's length.
  std::vector<std::int32_t> segment(std::string_view word) const override;

 private:
  struct Merge {
    std::int32_t rank, id;
  };

  void read_vocabulary(const nlohmann::json& vocabulary, const std::string& where);
  void read_merges(const nlohmann::json& merges, const std::string& where);
  std::vector<std::int32_t> characters(std::string_view word) const;
  std::vector<std::int32_t> merge(std::vector<std::int32_t> symbols) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  std::unordered_map<std::uint64_t, Merge> merges_;  // by (left id, right id)
  std::string prefix_, suffix_;  // of characters inside and at the end of a word
  std::optional<std::int32_t> unknown_;
  std::vector<std::int32_t> byte_ids_;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

}  // namespace strata
