#pragma once
// How instruction-tuned families write one user's turn and begin the answer.

#include <string>
#include <string_view>
#include <vector>

#include "model/text_config.hpp"
#include "text/tokenizer.hpp"

namespace strata {

enum class ChatFormat { none, gemma, llama3, mistral, qwen2 };

/// "none", "gemma", "llama3", "mistral", "qwen2". Error(64) for another name.
ChatFormat chat_format_named(const std::string& name);
/// The format that the family was published with, told by its special tokens; Error(65) naming dir
/// where they are not there.
ChatFormat chat_format_of(const TextConfig&, const Tokenizer&, const std::string& dir);

/// A stretch of a turn: a special token's text, or plain text.
struct ChatPiece {
  std::string text;
  bool special = false;
};
/// The turn of one user message up to where the answer begins, as the published templates of
/// Gemma 2, Llama 3, Mistral Instruct (v0.1, v0.2; v0.3 where [INST] is a token) and Qwen2 put it.
std::vector<ChatPiece> chat_turn(ChatFormat, const Tokenizer&, std::string_view message);

/// The ids of that turn; of the message as plain text with its special tokens when the format is
/// none. Error(65) when the vocabulary lacks a token of the format.
std::vector<std::int32_t> encode_turn(ChatFormat, const Tokenizer&, std::string_view message);
/// The token with which the model ends its answer; none where the format is none.
std::vector<std::int32_t> end_of_turn_ids(ChatFormat, const Tokenizer&);

}  // namespace strata
