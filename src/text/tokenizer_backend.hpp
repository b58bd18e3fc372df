#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/post_processor.hpp"

namespace strata {

/// What the layouts of tokenizer files have in common: the text between the special tokens, and
/// the special tokens that the files themselves put around it.
class TokenizerBackend {
 public:
  virtual ~TokenizerBackend() = default;
  /// Appends the ids of valid UTF-8, without the tokens around it.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// Ids that there are not are left out.
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special) const = 0;
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual Surround surround() const = 0;
  /// One more than the largest id.
  virtual std::int64_t vocabulary_size() const = 0;
};

}  // namespace strata
