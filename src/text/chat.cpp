#include "text/chat.hpp"

#include <algorithm>
#include <iterator>

#include "core/error.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

struct NamedFormat {
  const char* name;
  ChatFormat format;
};
constexpr NamedFormat formats[] = {{"none", ChatFormat::none},
                                   {"gemma", ChatFormat::gemma},
                                   {"llama3", ChatFormat::llama3},
                                   {"mistral", ChatFormat::mistral},
                                   {"qwen2", ChatFormat::qwen2}};

std::int32_t needed_id(const Tokenizer& tokenizer, const std::string& token) {
  const auto id = tokenizer.id_of(token);
  if (!id) fail(Exit::data, "the vocabulary has no {}, which the chat format needs", token);
  return *id;
}

/// tokenizer.json splits a text at the text of special tokens; to a .model it is mere text.
bool splits_at(const Tokenizer& tokenizer, const std::string& token) {
  return tokenizer.encode(token, false) == std::vector{needed_id(tokenizer, token)};
}

const char* end_of_turn(ChatFormat format) {
  switch (format) {
    case ChatFormat::none:
      return nullptr;
    case ChatFormat::gemma:
      return "<end_of_turn>";
    case ChatFormat::llama3:
      return "<|eot_id|>";
    case ChatFormat::mistral:
      return "</s>";
    case ChatFormat::qwen2:
      return "<|im_end|>";
  }
  return nullptr;
}

}  // namespace

ChatFormat chat_format_named(const std::string& name) {
  for (const auto& known : formats)
    if (name == known.name) return known.format;
  fail(Exit::usage, "--chat {}: there are: auto, none, gemma, llama3, mistral, qwen2", name);
}

ChatFormat chat_format_of(const TextConfig& config, const Tokenizer& tokenizer,
                          const std::string& dir) {
  const auto has = [&](auto... tokens) { return (tokenizer.id_of(tokens).has_value() && ...); };
  if (config.family == TextFamily::gemma2 && has("<start_of_turn>", "<end_of_turn>"))
    return ChatFormat::gemma;
  if (config.family == TextFamily::llama && has("<|start_header_id|>", "<|eot_id|>"))
    return ChatFormat::llama3;
  if (config.family == TextFamily::mistral && has("<s>", "</s>")) return ChatFormat::mistral;
  if (config.family == TextFamily::qwen2 && has("<|im_start|>", "<|im_end|>"))
    return ChatFormat::qwen2;
  fail(Exit::data,
       "{}: a {} whose chat format is not known by its special tokens; say it with --chat "
       "none|gemma|llama3|mistral|qwen2",
       dir, config.model_type);
}

std::vector<ChatPiece> chat_turn(ChatFormat format, const Tokenizer& tokenizer,
                                 std::string_view message) {
  const std::string own(message), bare(trimmed(message));
  switch (format) {
    case ChatFormat::none:
      return {{own}};
    case ChatFormat::gemma:
      return {
          {"<bos>", true}, {"<start_of_turn>", true}, {"user\n" + bare}, {"<end_of_turn>", true},
          {"\n"},          {"<start_of_turn>", true}, {"model\n"}};
    case ChatFormat::llama3:
      return {{"<|begin_of_text|>", true},
              {"<|start_header_id|>", true},
              {"user"},
              {"<|end_header_id|>", true},
              {"\n\n" + bare},
              {"<|eot_id|>", true},
              {"<|start_header_id|>", true},
              {"assistant"},
              {"<|end_header_id|>", true},
              {"\n\n"}};
    case ChatFormat::mistral:
      if (!tokenizer.id_of("[INST]")) return {{"<s>", true}, {"[INST] " + own + " [/INST]"}};
      // A .model itself puts a space before every text.
      return {{"<s>", true},
              {"[INST]", true},
              {(splits_at(tokenizer, "[INST]") ? " " : "") + own},
              {"[/INST]", true}};
    case ChatFormat::qwen2:
      return {{"<|im_start|>", true}, {"system\nYou are a helpful assistant."},
              {"<|im_end|>", true},   {"\n"},
              {"<|im_start|>", true}, {"user\n" + own},
              {"<|im_end|>", true},   {"\n"},
              {"<|im_start|>", true}, {"assistant\n"}};
  }
  return {};
}

std::vector<std::int32_t> encode_turn(ChatFormat format, const Tokenizer& tokenizer,
                                      std::string_view message) {
  if (format == ChatFormat::none) return tokenizer.encode(message);
  const std::vector<ChatPiece> pieces = chat_turn(format, tokenizer, message);
  // tokenizer.json splits at the text of special tokens by itself; to a .model it is mere text.
  bool splits = true;
  for (const ChatPiece& piece : pieces)
    if (piece.special)
      splits = splits &&
               tokenizer.encode(piece.text, false) == std::vector{needed_id(tokenizer, piece.text)};
  std::string whole;
  std::vector<std::int32_t> ids;
  for (const ChatPiece& piece : pieces) {
    whole += piece.text;
    if (splits) continue;
    if (piece.special) {
      ids.push_back(needed_id(tokenizer, piece.text));
    } else {
      const auto own = tokenizer.encode(piece.text, false);
      ids.insert(ids.end(), own.begin(), own.end());
    }
  }
  return splits ? tokenizer.encode(whole, false) : ids;
}

std::vector<std::int32_t> end_of_turn_ids(ChatFormat format, const Tokenizer& tokenizer) {
  const char* token = end_of_turn(format);
  if (token == nullptr) return {};
  return {needed_id(tokenizer, token)};
}

}  // namespace strata
