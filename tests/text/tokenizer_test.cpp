// Ids exactly as Hugging Face's `tokenizers` gives them, and sound answers to unsound files.

#include "text/tokenizer.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "core/error.hpp"
#include "core/file.hpp"
#include "golden.hpp"
#include "text/unicode.hpp"

namespace strata {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

class GoldenTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, GivesTheSameIds) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Tokenizer::load(golden_path(name));
  const json lines = golden_json("lines.json"), ids = golden_json(name + "/ids.json");
  ASSERT_GE(lines.size(), 120u);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto line = lines[i].get<std::string>();
    const Ids special = ids["special"][i].get<Ids>();
    EXPECT_EQ(tokenizer.encode(line), special) << i << ": " << lines[i].dump();
    EXPECT_EQ(tokenizer.encode(line, false), ids["raw"][i].get<Ids>())
        << i << ": " << lines[i].dump();
    if (!ids.contains("decoded")) continue;
    const std::size_t skipped = std::min(i % 3, special.size());
    EXPECT_EQ(tokenizer.decode(std::span(special).subspan(skipped)),
              ids["decoded"][i].get<std::string>())
        << i << ": " << lines[i].dump();
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTokenizer,
                         ::testing::Values("llama3", "gpt2", "qwen2", "clip", "mistral", "gemma",
                                           "split0", "split1", "split2", "split3", "split4", "t5",
                                           "t5_model", "unigram", "unigram_model", "mistral3",
                                           "mistral3_model", "gemma2", "cut0", "cut1", "cut2",
                                           "cut3", "cut4", "clip_files", "qwen2_files",
                                           "gpt2_files"),
                         [](const auto& info) { return std::string(info.param); });

/// A tokenizer.json that tests change before they load it.
class TokenizerFile : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/tokenizer-" + std::to_string(::getpid()) + "-" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
    document_ = golden_json("mistral/tokenizer.json");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void put(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
  }
  Tokenizer load() const {
    put("tokenizer.json", document_.dump());
    return Tokenizer::load(dir_);
  }
  /// The message of the refusal; the test fails when there is none.
  std::string refusal() const {
    try {
      load();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "was accepted";
    return {};
  }
  void expect_refused(const std::string& part) const {
    const std::string text = refusal();
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 600u);
  }

  std::string dir_;
  json document_;
};

TEST_F(TokenizerFile, RefusesWhatItDoesNotKnowByName) {
  const json good = document_;
  for (const auto& [place, type] : {std::pair{"model", "WordPiece"},
                                    {"pre_tokenizer", "BertPreTokenizer"},
                                    {"normalizer", "BertNormalizer"},
                                    {"decoder", "WordPiece"},
                                    {"post_processor", "Unheard"}}) {
    document_ = good;
    document_[place] = {{"type", type}};
    expect_refused(type);
  }
}

TEST_F(TokenizerFile, RefusesUnsoundVocabularies) {
  const json good = document_;
  for (const char* id : {"-1", "2147483648", "1.5", "1e400", "\"1\"", "null", "16777216"}) {
    put("tokenizer.json", [&] {
      json changed = good;
      changed["model"]["vocab"]["zz"] = "HERE";
      std::string text = changed.dump();
      return text.replace(text.find("\"HERE\""), 6, id);
    }());
    EXPECT_THROW(Tokenizer::load(dir_), Error) << id;
  }
  document_ = good;
  document_["model"]["vocab"]["zz"] = 5;
  expect_refused("id 5 is given to");
  document_ = good;
  document_["model"]["vocab"] = json::array();
  expect_refused("vocab");
  document_["model"].erase("vocab");
  expect_refused("vocab");
  document_ = good;
  document_["model"]["unk_token"] = "absent";
  expect_refused("absent");
}

TEST_F(TokenizerFile, RefusesUnsoundMerges) {
  const json good = document_;
  for (const json& merge :
       {json("a"), json("a b c"), json({"a"}), json({"a", "b", "c"}), json({1, 2}), json(7),
        json("a qqqq"), json("qqqq a"), json(" "), json("")}) {
    document_ = good;
    document_["model"]["merges"].push_back(merge);
    expect_refused("merge");
  }
  document_ = good;
  document_["model"]["merges"] = json::object();
  expect_refused("merges");
}

TEST_F(TokenizerFile, RefusesUnsoundAddedTokensAndTemplates) {
  const json good = document_;
  const json token = {{"id", 9999}, {"content", "<new>"}, {"special", false}};
  document_["added_tokens"].push_back(token);
  expect_refused("has id 9999");
  document_ = good;
  document_["added_tokens"].push_back(good["added_tokens"][0]);
  expect_refused("twice");
  document_ = good;
  document_["added_tokens"].push_back({{"id", good["model"]["vocab"].size()}, {"content", ""}});
  expect_refused("0 bytes");
  document_ = good;
  document_["post_processor"]["single"] = json::array();
  expect_refused("$A");
  document_ = good;
  document_["post_processor"]["special_tokens"]["<s>"]["ids"] = {1 << 20};
  expect_refused("not in the vocabulary");
  document_ = good;
  document_["post_processor"]["special_tokens"].erase("<s>");
  expect_refused("<s>");
}

TEST_F(TokenizerFile, RefusesUnsoundPatterns) {
  for (const char* pattern : {"(", "[a", "a{2,1}", "(?<=a+)b", "[a&&b]", "[a[b]]", "\\C",
                              "(*ACCEPT)", "(?m:a.b)", "\\X", "[\\S]"}) {
    document_["pre_tokenizer"] = {{"type", "Split"},
                                  {"pattern", {{"Regex", pattern}}},
                                  {"behavior", "Isolated"},
                                  {"invert", false}};
    expect_refused("regular expression");
  }
  document_["pre_tokenizer"]["pattern"] = {{"Regex", "a"}};
  document_["pre_tokenizer"]["behavior"] = "Sideways";
  expect_refused("Sideways");
}

TEST_F(TokenizerFile, RefusesStepsThatGrowATextWithoutEnd) {
  const auto forty = [](const json& step) { return json(std::vector<json>(40, step)); };
  const auto expect_refusal = [&] {
    const Tokenizer tokenizer = load();
    try {
      tokenizer.decode(tokenizer.encode("a\xc3\xa9"), false);
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find("524288 bytes"), std::string::npos) << error.what();
    }
  };
  const json good = document_;
  const json doubled = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  document_["added_tokens"] = nullptr;
  document_["post_processor"] = nullptr;
  document_["normalizer"] = {{"type", "Sequence"}, {"normalizers", forty(doubled)}};
  expect_refusal();
  document_["normalizer"] = nullptr;
  document_["pre_tokenizer"] = {{"type", "Sequence"},
                                {"pretokenizers", forty({{"type", "ByteLevel"}})}};
  expect_refusal();
  document_["pre_tokenizer"] = nullptr;
  document_["decoder"] = {{"type", "Sequence"}, {"decoders", forty(doubled)}};
  expect_refusal();
  document_ = good;
  const json eight(std::vector<json>(8, doubled));
  document_["normalizer"] = {{"type", "Sequence"}, {"normalizers", eight}};
  document_["added_tokens"] = {{{"id", good["model"]["vocab"].size()}, {"content", "aaaaa"}}};
  expect_refused("makes 1280 bytes of its text");
}

TEST_F(TokenizerFile, RefusesUnsoundJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}"), std::string("null"),
        std::string(100'000, '['), std::string("{\"model\":{\"vocab\":{\"a\":0,\"a\":1}}}"),
        std::string("{\"model\":\"\xFF\"}"), document_.dump() + "x"}) {
    put("tokenizer.json", text);
    try {
      Tokenizer::load(dir_);
      ADD_FAILURE() << text.substr(0, 40);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
      EXPECT_NE(std::string(error.what()).find("tokenizer.json"), std::string::npos);
    }
  }
  put("tokenizer_config.json", "2");
  expect_refused("tokenizer_config.json: not an object");
  std::filesystem::remove(dir_ + "/tokenizer.json");
  EXPECT_THROW(Tokenizer::load(dir_), Error);
}

TEST_F(TokenizerFile, SurvivesDamage) {
  const std::string good = document_.dump();
  std::mt19937 random(17);
  for (int round = 0; round < 200; ++round) {
    std::string bytes = good;
    for (int change = 0; change <= round % 3; ++change) {
      const std::size_t at = random() % bytes.size();
      if (random() % 2 == 0)
        bytes[at] = static_cast<char>(random());
      else
        bytes.erase(at, 1 + random() % 16);
    }
    put("tokenizer.json", bytes);
    try {
      Tokenizer::load(dir_).encode("a red <s> circle \xF0\x9F\x99\x82");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
    }
  }
}

TEST_F(TokenizerFile, AddsTheConfiguredBeginAndEnd) {
  const Ids plain = load().encode("red", false);
  const auto with = [&](const char* config) {
    put("tokenizer_config.json", config);
    return load().encode("red");
  };
  Ids begin{1}, both{1};
  begin.insert(begin.end(), plain.begin(), plain.end());
  both = begin;
  both.push_back(2);
  EXPECT_EQ(with("{}"), begin);
  EXPECT_EQ(with(R"({"add_bos_token": true, "bos_token": "<s>"})"), begin) << "not twice";
  EXPECT_EQ(with(R"({"add_eos_token": true, "eos_token": {"content": "</s>"}})"), both);
  EXPECT_EQ(with(R"({"add_eos_token": false, "eos_token": "</s>"})"), begin);
  document_["post_processor"] = nullptr;
  put("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<s>",
                                   "add_eos_token": true, "eos_token": "</s>"})");
  EXPECT_EQ(load().encode("red"), both);
  put("tokenizer_config.json", R"({"add_eos_token": true, "eos_token": "absent"})");
  expect_refused("absent");
  put("tokenizer_config.json", R"({"add_eos_token": true})");
  expect_refused("eos_token");
}

TEST_F(TokenizerFile, CutsTheTextAndKeepsTheSpecialTokens) {
  put("tokenizer_config.json", R"({"add_eos_token": true, "eos_token": "</s>"})");
  const Tokenizer tokenizer = load();
  const Ids whole = tokenizer.encode("a photo of a red circle");
  ASSERT_GT(whole.size(), 6u);
  for (std::size_t limit = 2; limit <= whole.size() + 1; ++limit) {
    const Ids cut = tokenizer.encode("a photo of a red circle", true, limit);
    ASSERT_EQ(cut.size(), std::min(limit, whole.size()));
    EXPECT_EQ(cut.front(), 1);
    EXPECT_EQ(cut.back(), 2);
    EXPECT_TRUE(std::equal(cut.begin(), cut.end() - 1, whole.begin()));
  }
  EXPECT_EQ(tokenizer.encode("a photo", true, 1), (Ids{1, 2}));
  EXPECT_EQ(tokenizer.encode("", true, 5), (Ids{1, 2}));
}

TEST_F(TokenizerFile, MergesLongWordsInNearLinearTime) {
  // One word of 1 MB whose pairs all merge: a quadratic merge would need hours.
  const std::string text = [] {
    std::string long_word;
    while (long_word.size() < 1'000'000) long_word += "the red ";
    std::erase(long_word, ' ');
    return long_word;
  }();
  const Tokenizer tokenizer = load();
  EXPECT_FALSE(tokenizer.encode(text).empty());
  EXPECT_FALSE(tokenizer.encode(std::string(1'000'000, 'a')).empty());
  EXPECT_FALSE(Tokenizer::load(golden_path("llama3")).encode(std::string(1'000'000, 'a')).empty());
  EXPECT_FALSE(Tokenizer::load(golden_path("llama3")).encode(std::string(1'000'000, ' ')).empty());
  std::string marks = "a";
  for (int i = 0; i < 100'000; ++i) marks += "\xCC\x81\xCC\xA3";
  EXPECT_FALSE(Tokenizer::load(golden_path("qwen2")).encode(marks).empty());
}

TEST(Utf8, FindsTheFirstInvalidSequence) {
  EXPECT_EQ(find_invalid_utf8(""), std::string::npos);
  EXPECT_EQ(find_invalid_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82\xF4\x8F\xBF\xBF"),
            std::string::npos);
  const std::pair<const char*, std::size_t> bad[] = {{"\x80", 0},
                                                     {"a\xC3", 1},
                                                     {"ab\xE2\x82", 2},
                                                     {"\xC0\xAF", 0},
                                                     {"\xC1\xBF", 0},
                                                     {"\xE0\x9F\xBF", 0},
                                                     {"\xED\xA0\x80", 0},
                                                     {"\xED\xBF\xBF", 0},
                                                     {"\xF0\x8F\xBF\xBF", 0},
                                                     {"\xF4\x90\x80\x80", 0},
                                                     {"\xF5\x80\x80\x80", 0},
                                                     {"\xFF", 0},
                                                     {"x\xE2\x28\xA1", 1},
                                                     {"\xF0\x9F\x99", 0}};
  for (const auto& [text, at] : bad) EXPECT_EQ(find_invalid_utf8(text), at) << text;
}

TEST(Normalization, OfLongTextsIsThatOfTheirParts) {
  std::string part =
      "e\xCC\x81\xCC\xA3 \xEA\xB0\x80 \xE1\x84\x80\xE1\x85\xA1 \xE0\xBD\xB3\xE0\xBD\xB1 ";
  part += "q\xCC\x87\xCC\xA3\xCD\x84 \xEF\xAC\x83 \xF0\x9F\x99\x82 \xE2\x84\xAB ";
  std::string whole;
  for (int i = 0; i < 500; ++i) whole += part;
  for (const NormalForm form :
       {NormalForm::nfc, NormalForm::nfd, NormalForm::nfkc, NormalForm::nfkd}) {
    const std::string one = normalize(part, form);
    std::string expected;
    for (int i = 0; i < 500; ++i) expected += one;
    EXPECT_EQ(normalize(whole, form), expected) << static_cast<int>(form);
  }
  EXPECT_EQ(normalize("e\xCC\x81", NormalForm::nfc), "\xC3\xA9");
}

TEST(TextLines, EndAtLineFeedsOnly) {
  const std::string path = ::testing::TempDir() + "/lines-" + std::to_string(::getpid());
  const auto lines = [&](std::string_view text) {
    write_file_atomically(path, text);
    return read_text_lines(path);
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(lines("a\nb\n"), (Lines{"a", "b"}));
  EXPECT_EQ(lines("a\nb"), (Lines{"a", "b"}));
  EXPECT_EQ(lines("\n"), (Lines{""}));
  EXPECT_EQ(lines("a\r\n\n b "), (Lines{"a\r", "", " b "}));
  EXPECT_EQ(lines(std::string_view("a\0b\n", 4)), (Lines{std::string("a\0b", 3)}));
  for (const auto& [text, part] :
       {std::pair{"", "no line"}, {"a\n\xFF\n", "line 2"}, {"a\nb\xC3", "line 2"}}) {
    try {
      lines(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace strata
