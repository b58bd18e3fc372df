#pragma once
// Text generation with a decoder model: token ids in, new token ids out.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/next_token.hpp"
#include "model/text_model.hpp"

namespace strata {

struct GenerationOptions {
  SamplingOptions sampling;
  std::int64_t max_new_tokens = 1024;
  std::int64_t batch = 16;         // texts at once
  std::vector<std::int32_t> stop;  // more ids that end a text, beside the model's own
};

/// A prompt by the number that its randomness is drawn with.
struct TextRequest {
  std::uint64_t row = 0;
  std::vector<std::int32_t> prompt;
};

/// Ids that end a text: `eos_token_id` (a number or a list) of generation_config.json in the
/// model's folder or, where that says nothing, of config.json; none where both say nothing.
std::vector<std::int32_t> read_stop_ids(const std::string& dir);

class TextGenerator {
 public:
  /// Tokens: the context of the published models; bounds a pass's memory and time.
  static constexpr std::int64_t longest_prompt = 32768;
  /// dir as for TextModel::load. Error(65) for a model that cannot generate.
  static TextGenerator load(Exec&, const std::string& dir, DType compute);
  const TextModel& model() const { return model_; }
  /// read_stop_ids of the model's folder.
  const std::vector<std::int32_t>& stop_ids() const { return stop_; }

  /// Takes requests until there are none and calls done(row, new ids) as each text ends: at
  /// max_new_tokens, or before an id that stops it, which is not output. A text that ends makes
  /// room for the next request. A text's ids depend on its request and the options alone, not on
  /// `batch` or its neighbours. A prompt without ids stays without output, one of more than
  /// longest_prompt is Error(65).
  using Next = std::function<std::optional<TextRequest>()>;
  using Done = std::function<void(std::uint64_t row, const std::vector<std::int32_t>& ids)>;
  void generate(Exec&, const GenerationOptions&, const Next&, const Done&) const;

 private:
  class Run;
  TextGenerator(TextModel model, ops::PackedWeight head, std::vector<std::int32_t> stop)
      : model_(std::move(model)), head_(std::move(head)), stop_(std::move(stop)) {}

  TextModel model_;
  ops::PackedWeight head_;
  std::vector<std::int32_t> stop_;
};

}  // namespace strata
