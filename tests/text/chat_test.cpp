// A user's turn, against the chat templates that the models were published with.

#include "text/chat.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "golden.hpp"
#include "tests/data/temporary_folder.hpp"
#include "text/unicode.hpp"

namespace strata {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

class Chat : public testing::Test {
 protected:
  /// A golden's tokenizer.json with further special tokens, as the instruct models have them.
  Tokenizer with_tokens(const std::string& golden, const std::vector<std::string>& tokens) {
    json document = golden_json(golden + "/tokenizer.json");
    auto id = Tokenizer::load(golden_path(golden)).vocabulary_size();
    for (const std::string& token : tokens)
      document["added_tokens"].push_back({{"id", id++},
                                          {"content", token},
                                          {"single_word", false},
                                          {"lstrip", false},
                                          {"rstrip", false},
                                          {"normalized", false},
                                          {"special", true}});
    std::ofstream(folder_ / "tokenizer.json") << document.dump();
    return Tokenizer::load(folder_.path());
  }
  TemporaryFolder folder_;
};

std::string text_of(const std::vector<ChatPiece>& pieces) {
  std::string text;
  for (const ChatPiece& piece : pieces) text += piece.text;
  return text;
}

/// The rendered template, and its ids as apply_chat_template has them: the special tokens' own, and
/// between them what the tokenizer makes of the text.
void expect_turn(ChatFormat format, const Tokenizer& tokenizer, const std::string& message,
                 const std::string& rendered, const std::vector<std::string>& special) {
  EXPECT_EQ(text_of(chat_turn(format, tokenizer, message)), rendered);
  const Ids ids = encode_turn(format, tokenizer, message);
  EXPECT_EQ(ids, tokenizer.encode(rendered, false));
  for (const std::string& token : special)
    EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.id_of(token).value()),
              std::count(special.begin(), special.end(), token))
        << token;
}

const std::vector<std::string> llama_tokens{"<|begin_of_text|>", "<|start_header_id|>",
                                            "<|end_header_id|>", "<|eot_id|>"};
const std::vector<std::string> gemma_tokens{"<bos>", "<start_of_turn>", "<end_of_turn>"};
const std::vector<std::string> qwen_tokens{"<|im_start|>", "<|im_end|>"};

// Meta-Llama-3-8B-Instruct: bos, then for each message '<|start_header_id|>' + role +
// '<|end_header_id|>\n\n' + content | trim + '<|eot_id|>', then the assistant's header.
TEST_F(Chat, Llama3) {
  const Tokenizer tokenizer = with_tokens("llama3", llama_tokens);
  expect_turn(ChatFormat::llama3, tokenizer, " A red circle.\n\nTwo lines\xC2\xA0\n",
              "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nA red circle.\n\nTwo "
              "lines<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
              {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
               "<|start_header_id|>", "<|end_header_id|>"});
  EXPECT_EQ(end_of_turn_ids(ChatFormat::llama3, tokenizer), (Ids{*tokenizer.id_of("<|eot_id|>")}));
}

// gemma-2-9b-it: bos, '<start_of_turn>' + role + '\n' + content | trim + '<end_of_turn>\n', then
// '<start_of_turn>model\n'.
TEST_F(Chat, Gemma2) {
  const Tokenizer tokenizer = with_tokens("gemma2", gemma_tokens);
  expect_turn(ChatFormat::gemma, tokenizer, "\tA red circle. ",
              "<bos><start_of_turn>user\nA red circle.<end_of_turn>\n<start_of_turn>model\n",
              {"<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>"});
  EXPECT_EQ(end_of_turn_ids(ChatFormat::gemma, tokenizer),
            (Ids{*tokenizer.id_of("<end_of_turn>")}));
}

// Qwen2-7B-Instruct: its own system message before a first message that is none, then
// '<|im_start|>' + role + '\n' + content + '<|im_end|>\n' (nothing trimmed),
// '<|im_start|>assistant\n'.
TEST_F(Chat, Qwen2) {
  const Tokenizer tokenizer = with_tokens("qwen2", qwen_tokens);
  expect_turn(
      ChatFormat::qwen2, tokenizer, " A red circle. ",
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n A red "
      "circle. <|im_end|>\n<|im_start|>assistant\n",
      {"<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>"});
  EXPECT_EQ(end_of_turn_ids(ChatFormat::qwen2, tokenizer), (Ids{*tokenizer.id_of("<|im_end|>")}));
}

// Mistral-7B-Instruct-v0.1 and v0.2: bos + '[INST] ' + content + ' [/INST]', brackets being text.
TEST_F(Chat, MistralBeforeTokensForTheBrackets) {
  const Tokenizer tokenizer = with_tokens("mistral", {});
  expect_turn(ChatFormat::mistral, tokenizer, "A red circle.", "<s>[INST] A red circle. [/INST]",
              {"<s>"});
  EXPECT_EQ(end_of_turn_ids(ChatFormat::mistral, tokenizer), (Ids{*tokenizer.id_of("</s>")}));
}

// Mistral-7B-Instruct-v0.3: bos + '[INST] ' + content + '[/INST]', brackets being tokens.
TEST_F(Chat, MistralWithTokensForTheBrackets) {
  const Tokenizer tokenizer = with_tokens("mistral3", {"[INST]", "[/INST]"});
  expect_turn(ChatFormat::mistral, tokenizer, "A red circle.", "<s>[INST] A red circle.[/INST]",
              {"<s>", "[INST]", "[/INST]"});
}

/// A field of a protocol buffer: bytes shorter than 128.
std::string short_field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

// With a .model the special tokens are ids between texts of their own, as Mistral's own tokenizer
// puts them: [INST], the message with the space that SentencePiece puts before it, [/INST].
TEST_F(Chat, ModelsWithoutSplittingHaveTheSameTurn) {
  const std::string file = read_file(golden_path("mistral3_model/tokenizer.model"));
  std::ofstream(folder_ / "tokenizer.model", std::ios::binary) << file;
  const auto expect_ids = [&](const Tokenizer& tokenizer, const Ids& before,
                              const std::string& text, const Ids& after) {
    Ids want = before;
    for (const std::int32_t id : tokenizer.encode(text, false)) want.push_back(id);
    want.insert(want.end(), after.begin(), after.end());
    EXPECT_EQ(encode_turn(ChatFormat::mistral, tokenizer, "a red circle"), want);
  };
  const Tokenizer plain = Tokenizer::load(folder_.path());
  expect_ids(plain, {*plain.id_of("<s>")}, "[INST] a red circle [/INST]", {});

  std::ofstream control(folder_ / "tokenizer.model", std::ios::binary);
  control << file;
  for (const char* name : {"[INST]", "[/INST]"})  // type 3: control
    control << short_field(1, short_field(1, name) + "\x18\x03");
  control.close();
  const Tokenizer with = Tokenizer::load(folder_.path());
  expect_ids(with, {*with.id_of("<s>"), *with.id_of("[INST]")}, "a red circle",
             {*with.id_of("[/INST]")});
  // The same ids as tokenizer.json gives for "[INST] a red circle[/INST]": one space, not two.
  EXPECT_EQ(with.decode(encode_turn(ChatFormat::mistral, with, "a red circle")), "a red circle");
}

TEST_F(Chat, NoneIsThePlainTextWithItsSpecialTokens) {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("mistral"));
  EXPECT_EQ(encode_turn(ChatFormat::none, tokenizer, " x "), tokenizer.encode(" x "));
  EXPECT_TRUE(end_of_turn_ids(ChatFormat::none, tokenizer).empty());
}

TEST_F(Chat, TheFormatIsKnownByFamilyAndTokens) {
  TextConfig config;
  const auto format = [&](TextFamily family, const char* golden,
                          const std::vector<std::string>& tokens) {
    config.family = family;
    return chat_format_of(config, with_tokens(golden, tokens), "DIR");
  };
  EXPECT_EQ(format(TextFamily::llama, "llama3", llama_tokens), ChatFormat::llama3);
  EXPECT_EQ(format(TextFamily::gemma2, "gemma2", gemma_tokens), ChatFormat::gemma);
  EXPECT_EQ(format(TextFamily::qwen2, "qwen2", qwen_tokens), ChatFormat::qwen2);
  EXPECT_EQ(format(TextFamily::mistral, "mistral", {}), ChatFormat::mistral);
  for (const char* name : {"none", "gemma", "llama3", "mistral", "qwen2"}) chat_format_named(name);
  try {
    format(TextFamily::llama, "llama3", {});
    ADD_FAILURE() << "a base model has no chat format";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("DIR"), std::string::npos);
  }
  try {
    chat_format_named("vicuna");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::usage);
  }
  try {
    encode_turn(ChatFormat::gemma, with_tokens("llama3", {}), "x");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("<bos>"), std::string::npos) << error.what();
  }
}

TEST(Trimmed, TakesUnicodeSpaceFromBothEnds) {
  EXPECT_EQ(trimmed(" \t\xE3\x80\x80"
                    "a b\xC2\xA0\r\n"),
            "a b");
  EXPECT_EQ(trimmed(" \n"), "");
  EXPECT_EQ(trimmed(""), "");
}

}  // namespace
}  // namespace strata
