// Which of a folder's tokenizer files is read, what stands around a text, and unsound files of the
// layouts other than tokenizer.json.

#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>

#include "core/error.hpp"
#include "core/file.hpp"
#include "golden.hpp"
#include "text/charsmap.hpp"
#include "text/tokenizer.hpp"
#include "text/unicode.hpp"

namespace strata {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

class TokenizerFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/layout-" + std::to_string(::getpid()) + "-" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void put(const std::string& name, const std::string& bytes) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
  }
  /// The files of a golden, under their own names.
  void copy(const std::string& golden) const {
    for (const auto& entry : std::filesystem::directory_iterator(golden_path(golden)))
      std::filesystem::copy(entry.path(), dir_ + "/" + entry.path().filename().string(),
                            std::filesystem::copy_options::overwrite_existing);
  }
  Tokenizer load() const { return Tokenizer::load(dir_); }
  void expect_refused(const std::string& part) const {
    try {
      load().encode("a red circle");
      ADD_FAILURE() << "was accepted, wanted: " << part;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.code(), Exit::data) << text;
      EXPECT_NE(text.find(part), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    }
  }

  std::string dir_;
};

TEST_F(TokenizerFolder, PrefersTokenizerJsonThenModelThenVocabularyFiles) {
  const std::string line = "a photo of a red circle";
  const auto expect_like = [&](const char* golden) {
    EXPECT_EQ(load().encode(line, false), Tokenizer::load(golden_path(golden)).encode(line, false));
    EXPECT_EQ(load().sha256(), Tokenizer::load(golden_path(golden)).sha256());
  };
  expect_refused("no tokenizer.json");
  copy("clip_files");
  expect_like("clip_files");
  copy("t5_model");
  expect_like("t5_model");
  copy("mistral3_model");
  expect_like("mistral3_model");
  copy("llama3");
  expect_like("llama3");
}

TEST_F(TokenizerFolder, SpecialTokensStayTextWithAModel) {
  const Tokenizer model = Tokenizer::load(golden_path("mistral3_model"));
  const Tokenizer file = Tokenizer::load(golden_path("mistral3"));
  const Ids with_json = file.encode("x </s> y", false),
            with_model = model.encode("x </s> y", false);
  EXPECT_NE(std::find(with_json.begin(), with_json.end(), 2), with_json.end());
  EXPECT_EQ(std::find(with_model.begin(), with_model.end(), 2), with_model.end());
  EXPECT_EQ(model.decode(with_model), "x </s> y");
  EXPECT_EQ(model.id_of("</s>"), 2);
  EXPECT_EQ(model.id_of("no such token"), std::nullopt);
}

TEST_F(TokenizerFolder, AModelsClassAndFlagsSayWhatStandsAround) {
  std::filesystem::copy(golden_path("unigram_model") + "/tokenizer.model",
                        dir_ + "/tokenizer.model");
  const Ids plain = load().encode("red", false);
  const auto around = [&](const char* config) {
    put("tokenizer_config.json", config);
    Ids ids = load().encode("red");
    const auto at = std::search(ids.begin(), ids.end(), plain.begin(), plain.end());
    EXPECT_NE(at, ids.end());
    return std::pair(Ids(ids.begin(), at), Ids(at + plain.size(), ids.end()));
  };
  EXPECT_EQ(around("{}"), std::pair(Ids{1}, Ids{}));
  EXPECT_EQ(around(R"({"tokenizer_class": "LlamaTokenizer"})"), std::pair(Ids{1}, Ids{}));
  EXPECT_EQ(around(R"({"tokenizer_class": "T5Tokenizer"})"), std::pair(Ids{}, Ids{2}));
  EXPECT_EQ(around(R"({"add_bos_token": false})"), std::pair(Ids{}, Ids{}));
  EXPECT_EQ(around(R"({"add_bos_token": true, "bos_token": "<s>",
                       "add_eos_token": true, "eos_token": {"content": "</s>"}})"),
            std::pair(Ids{1}, Ids{2}));
  put("tokenizer_config.json", R"({"add_eos_token": true, "eos_token": "absent"})");
  expect_refused("absent");
  std::filesystem::remove(dir_ + "/tokenizer_config.json");
  std::filesystem::rename(dir_ + "/tokenizer.model", dir_ + "/spiece.model");
  EXPECT_EQ(load().encode("red").back(), 2) << "spiece.model is T5's";
  EXPECT_EQ(load().end_of_text(), 2);
}

TEST_F(TokenizerFolder, ClipIsCutAt77AndEndsWithItsOwnEnd) {
  for (const char* golden : {"clip", "clip_files"}) {
    const Tokenizer clip = Tokenizer::load(golden_path(golden));
    EXPECT_EQ(clip.default_max_tokens(), 77u);
    std::string text;
    for (int i = 0; i < 100; ++i) text += "red ";
    const Ids ids = clip.encode(text, true, clip.default_max_tokens());
    ASSERT_EQ(ids.size(), 77u);
    EXPECT_EQ(ids.front(), clip.id_of("<s>"));
    EXPECT_EQ(ids.back(), clip.end_of_text());
    EXPECT_EQ(clip.end_of_text(), clip.id_of("</s>"));
  }
  EXPECT_EQ(Tokenizer::load(golden_path("mistral3_model")).default_max_tokens(), 256u);
}

TEST_F(TokenizerFolder, VocabularyFilesNeedAKnownFamily) {
  copy("qwen2_files");
  put("tokenizer_config.json", R"({"tokenizer_class": "MarianTokenizer"})");
  expect_refused("MarianTokenizer");
  put("tokenizer_config.json", "{}");
  expect_refused("tokenizer_class");
  put("config.json", R"({"model_type": "qwen2"})");
  EXPECT_FALSE(load().encode("red").empty());
  put("config.json", R"({"model_type": "bert"})");
  expect_refused("bert");
  put("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  for (const char* merges : {"#version: 0.2\na\n", "a b c\n", "q qqqqqq\n"}) {
    put("merges.txt", merges);
    expect_refused("merge");
  }
  put("merges.txt", "\x89 b\n");
  expect_refused("merges.txt: invalid UTF-8 at byte 0");
  put("merges.txt", "");
  for (const char* vocabulary : {"[]", "{\"a\": -1}", "{\"a\": 0, \"b\": 0}", "{\"a\": \"b\"}"}) {
    put("vocab.json", vocabulary);
    expect_refused("vocab");
  }
}

/// One field of a protocol buffer: bytes.
std::string bytes_field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  for (std::size_t size = bytes.size();; size >>= 7) {
    out += static_cast<char>(size >= 0x80 ? size | 0x80 : size);
    if (size < 0x80) return out + bytes;
  }
}

TEST_F(TokenizerFolder, RefusesUnsoundModels) {
  const std::string good = read_file(golden_path("t5_model/spiece.model"));
  const auto refuses = [&](const std::string& bytes, const char* part) {
    put("spiece.model", bytes);
    expect_refused(part);
  };
  refuses("", "no pieces");
  refuses("not a model at all", "spiece.model");
  refuses(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10), "cut off");
  refuses(std::string(20, '\xFF'), "64 bits");
  refuses(good + bytes_field(1, bytes_field(1, "\xE2\x96\x81")), "twice");
  refuses(good + bytes_field(1, bytes_field(1, "")), "its text");
  refuses(good + bytes_field(1, bytes_field(1, "\xFF")), "its text");
  refuses(good + bytes_field(1, bytes_field(1, std::string("a\0b", 3))), "its text");
  refuses(good + bytes_field(1, bytes_field(1, "zz") + std::string("\x15\x00\x00\xC0\x7F", 5)),
          "not finite");
  refuses(good + bytes_field(1, bytes_field(1, "zz") + "\x18\x09"), "type");
  refuses(good + bytes_field(2, "\x18\x01"), "twice");
  refuses(bytes_field(1, bytes_field(1, "a")) + bytes_field(2, "\x18\x03"), "model_type 3");
  refuses(bytes_field(1, bytes_field(1, "a")), "unk");
  put("tokenizer.json", "{");
  expect_refused("tokenizer.json");
}

TEST_F(TokenizerFolder, SurvivesDamagedModels) {
  std::mt19937 random(23);
  for (const char* file : {"t5_model/spiece.model", "unigram_model/tokenizer.model",
                           "mistral3_model/tokenizer.model"}) {
    const std::string good = read_file(golden_path(file));
    const std::string name = std::filesystem::path(file).filename();
    int accepted = 0;
    for (int round = 0; round < 300; ++round) {
      std::string bytes = good;
      const std::size_t at = random() % bytes.size();
      if (round % 3 == 0)
        bytes[at] = static_cast<char>(random());
      else if (round % 3 == 1)
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
      else
        bytes.resize(at);
      put(name, bytes);
      try {
        const Tokenizer tokenizer = load();
        tokenizer.decode(
            tokenizer.encode("a red <s> circle \xF0\x9F\x99\x82 e\xCC\x81 \xEF\xAC\x81"));
        ++accepted;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Exit::data) << error.what();
      }
    }
    EXPECT_GT(accepted, 0) << "the damage must reach past the parser";
    std::filesystem::remove(dir_ + "/" + name);
  }
}

TEST_F(TokenizerFolder, RefusesUnsoundUnigramsAndCharacterMaps) {
  const json good = golden_json("t5/tokenizer.json");
  const auto refuses = [&](const json& document, const char* part) {
    put("tokenizer.json", document.dump());
    expect_refused(part);
  };
  for (const json& item : {json("a"), json::array({"a"}), json::array({"a", "b"}),
                           json::array({1, 2}), json::array({"a", nullptr})}) {
    json changed = good;
    changed["model"]["vocab"].push_back(item);
    refuses(changed, "[text, score]");
  }
  json changed = good;
  changed["model"]["unk_id"] = 1 << 20;
  refuses(changed, "unk_id");
  changed["model"]["unk_id"] = nullptr;
  put("tokenizer.json", changed.dump());
  EXPECT_THROW(load().encode("\xE0\xAF\xB5"), Error);
  for (const char* map : {"", "AAAA", "!!!!", "BAAAAP////8A", "/////wAA"}) {
    changed = good;
    changed["normalizer"]["precompiled_charsmap"] = map;
    refuses(changed, "precompiled_charsmap");
  }
  changed = good;
  changed["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
  refuses(changed, "one character");
  changed["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "sometimes"}};
  refuses(changed, "sometimes");
}

TEST(Decoding, ReplacesBytesThatAreNoCharacter) {
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x99"), "\xEF\xBF\xBD") << "one for a character cut off";
  EXPECT_EQ(replace_invalid_utf8("\xE2\x28\xA1"), "\xEF\xBF\xBD(\xEF\xBF\xBD");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  const Tokenizer llama = Tokenizer::load(golden_path("llama3"));
  const Ids outside{1'000'000, -1};
  EXPECT_EQ(llama.decode(outside), "");
}

TEST(LongLines, UnknownCharactersOfAModelAreOneToken) {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("t5_model"));
  const auto around = [&](const std::string& unknown) {
    return tokenizer.encode("a red" + unknown + "circle" + unknown, false);
  };
  const std::string tamil = "\xE0\xAF\xB5", runic = "\xE1\x9B\xAF";
  const Ids one = around(tamil);
  EXPECT_EQ(std::count(one.begin(), one.end(), tokenizer.id_of("<unk>").value()), 2);
  EXPECT_EQ(around(tamil + runic + tamil), one);
  EXPECT_NE(around(tamil + " " + runic), one);
  // The pieces that stand for bytes inside of the library are not the vocabulary's.
  const auto size = static_cast<std::int32_t>(tokenizer.vocabulary_size());
  EXPECT_EQ(tokenizer.decode(Ids{size, size + 0x41}), "");
  EXPECT_EQ(tokenizer.id_of("<0x41>"), std::nullopt);
}

/// 64 times the text takes at most 1024 times the processor's time: quadratic work takes 4096
/// times; linear work whose data leave the caches was seen to take 130.
TEST(LongLines, TakeNearLinearTime) {
  const auto seconds = [](const Tokenizer& tokenizer, const std::string& unit, std::size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += unit;
    const std::clock_t begin = std::clock();
    EXPECT_FALSE(tokenizer.encode(text + "x").empty());
    return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  };
  for (const char* golden : {"llama3", "qwen2_files", "gemma2", "clip", "clip_files", "mistral3",
                             "mistral3_model", "t5", "t5_model", "unigram_model"})
    for (const char* unit :
         {"a", " ", "thered", "\xCC\x81\xCC\xA3", "\xF0\x9F\x99\x82", "\xE0\xAF\xB5"}) {
      const Tokenizer tokenizer = Tokenizer::load(golden_path(golden));
      const double shorter = seconds(tokenizer, unit, 16'000);
      const double longer = seconds(tokenizer, unit, 1'024'000);
      EXPECT_LE(longer, 1024 * shorter) << golden << " " << json(unit).dump() << " " << shorter;
    }
}

}  // namespace
}  // namespace strata
