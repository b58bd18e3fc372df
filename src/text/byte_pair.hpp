#pragma once
// Byte-pair encoding (Sennrich et al. 2016): a word's characters are joined, pair by pair, in the
// order of a list of merges.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace strata {

class BytePairModel {
 public:
  /// The "model" object of tokenizer.json; Error(65) naming `where` when it is not a sound BPE
  /// model.
  BytePairModel(const nlohmann::json& description, const std::string& where);

  /// Appends the ids of one pre-tokenized word (valid UTF-8). O(n log n) in its length.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

  std::optional<std::int32_t> id_of(std::string_view token) const;
  std::size_t size() const { return vocabulary_.size(); }
  std::int32_t largest_id() const { return largest_id_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  struct Merge {
    std::int32_t rank, id;
  };

  void read_vocabulary(const nlohmann::json& vocabulary, const std::string& where);
  void read_merges(const nlohmann::json& merges, const std::string& where);
  std::vector<std::int32_t> characters(std::string_view word) const;
  std::vector<std::int32_t> merge(std::vector<std::int32_t> symbols) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by (left id, right id)
  std::string prefix_, suffix_;  // of characters inside and at the end of a word
  std::optional<std::int32_t> unknown_;
  std::vector<std::int32_t> byte_ids_;  // of <0x00> .. <0xFF>, -1 where there is none
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
  std::int32_t largest_id_ = -1;
  mutable std::unordered_map<std::string, std::vector<std::int32_t>, Hash, std::equal_to<>> cache_;
};

}  // namespace strata
