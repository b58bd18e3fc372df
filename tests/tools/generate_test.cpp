// `strata eval generate` and `strata upsample` as a user runs them.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "tests/tools/command_test.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string source = STRATA_SOURCE_DIR;
const std::string miniature = source + "/data/miniature/encoder";

std::vector<std::vector<std::int64_t>> ragged(const SafetensorsFile& file, const char* ids,
                                              const char* offsets) {
  const Buffer values = file.read_i64(ids), at = file.read_i64(offsets);
  std::vector<std::vector<std::int64_t>> texts;
  for (std::int64_t b = 0; b + 1 < at.tensor().numel(); ++b)
    texts.emplace_back(values.as<std::int64_t>() + at.as<std::int64_t>()[b],
                       values.as<std::int64_t>() + at.as<std::int64_t>()[b + 1]);
  return texts;
}

class Generation : public CommandTest {
 protected:
  // One thread: small models wait for their threads longer than they compute where cores are busy.
  Generation() { setenv("OMP_NUM_THREADS", "1", 0); }
  std::string at(const std::string& name) const { return folder_ + "/" + name; }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(at(name), std::ios::binary) << content;
    return at(name);
  }
  /// A copy of a golden model with a tokenizer that has a character for every id.
  std::string with_letters(const std::string& golden, int vocabulary) const {
    const std::string dir = at(golden);
    fs::copy(source + "/tests/golden/text/generation/" + golden, dir);
    json document{{"version", "1.0"},
                  {"added_tokens", json::array()},
                  {"model", {{"type", "BPE"}, {"merges", json::array()}}}};
    for (const char* none :
         {"truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"})
      document[none] = nullptr;
    for (int id = 0; id < vocabulary; ++id) document["model"]["vocab"][letter(id)] = id;
    std::ofstream(dir + "/tokenizer.json") << document.dump();
    return dir;
  }
  /// U+0100 and on.
  static std::string letter(std::int64_t id) {
    return {static_cast<char>(0xC4 + id / 64), static_cast<char>(0x80 + id % 64)};
  }
  Outcome generate(const std::string& model, const std::string& prompts,
                   const std::string& more) const {
    return eval(fmt::format("generate --model '{}' --input '{}' --output '{}' {}", model, prompts,
                            output(), more));
  }
  std::vector<std::vector<std::int64_t>> texts() const {
    return ragged(SafetensorsFile(output()), "output_ids", "offsets");
  }
};

TEST_F(Generation, GreedyIdsAreThoseOfTransformers) {
  for (const char* family : {"llama", "mistral", "qwen2", "gemma2"}) {
    const std::string model = with_letters(family, 131);
    const SafetensorsFile golden(model + "/texts.safetensors");
    std::string lines;
    for (const auto& prompt : ragged(golden, "input_ids", "input_offsets")) {
      for (const std::int64_t id : prompt) lines += letter(id);
      lines += "\n";
    }
    const Outcome run = generate(model, write("prompts.txt", lines), "--max-new-tokens 40");
    ASSERT_EQ(run.code, 0) << run.out;
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(texts(), ragged(golden, "output_ids", "offsets")) << family;
  }
}

TEST_F(Generation, DrawsDependOnSeedRowAndPlaceAlone) {
  const std::string prompts = write("prompts.txt", "a red\ntwo\na red\n\nblue circles\n");
  const auto drawn = [&](const std::string& more) {
    const Outcome run =
        generate(miniature, prompts, "--temperature 1.5 --top-p 0.95 --max-new-tokens 12 " + more);
    EXPECT_EQ(run.code, 0) << run.out;
    return texts();
  };
  const auto one = drawn("--seed 5");
  EXPECT_EQ(drawn("--seed 5 --batch 2"), one);
  EXPECT_NE(drawn("--seed 6"), one);
  EXPECT_NE(one[0], one[2]) << "another row of the same text";
  // The prompt of row 0 does not touch the other rows.
  write("prompts.txt", "something else\ntwo\na red\n\nblue circles\n");
  const auto other = drawn("--seed 5");
  EXPECT_NE(other[0], one[0]);
  EXPECT_EQ(std::vector(other.begin() + 1, other.end()), std::vector(one.begin() + 1, one.end()));
}

TEST_F(Generation, RefusalsSayTheCauseInOneLine) {
  const std::string prompts = write("prompts.txt", "a red circle\n");
  const auto refused = [&](const Outcome& run, int code, const std::string& cause) {
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(cause), std::string::npos) << run.out;
    EXPECT_EQ(run.out.find("strata: error: "), 0u) << run.out;
    EXPECT_EQ(run.out.find('\n'), run.out.size() - 1) << run.out;
    EXPECT_FALSE(fs::exists(output()));
  };
  refused(generate(miniature, prompts, "--max-new-tokens 0"), 64, "max-new-tokens");
  refused(generate(miniature, prompts, "--temperature -1"), 64, "temperature");
  refused(generate(miniature, prompts, "--temperature nan"), 64, "temperature");
  refused(generate(miniature, prompts, "--top-p 0"), 64, "top-p");
  refused(generate(miniature, prompts, "--batch 0"), 64, "batch");
  refused(generate(miniature, prompts, "--chat vicuna"), 64, "vicuna");
  refused(generate(miniature, prompts, "--chat gemma"), 65, "<end_of_turn>");
  refused(generate(miniature, prompts, "--chat auto"), 65, "chat format");
  refused(generate(miniature, write("bad.txt", "fine\n\xFF\n"), ""), 65, "line 2");
  refused(generate(miniature, write("empty.txt", ""), ""), 65, "empty.txt");
  refused(generate(miniature, at("absent.txt"), ""), 65, "absent.txt");
  refused(generate(at("absent"), prompts, ""), 65, "absent");
  // A tokenizer with more ids than the model has rows.
  const std::string model = with_letters("qwen2", 200);
  refused(generate(model, write("outside.txt", letter(3) + letter(131) + "\n"), ""), 65,
          "token id 131");
  std::string line;
  for (int i = 0; i < 40000; ++i) line += letter(5);
  refused(generate(model, write("long.txt", "\n" + line + "\n"), ""), 65, "prompt 1 (from 0)");
  std::ofstream(model + "/generation_config.json") << R"({"eos_token_id": "</s>"})";
  refused(generate(model, prompts, ""), 65, "generation_config.json");
}

// --- upsample -----------------------------------------------------------------------------------

class Upsampling : public Generation {
 protected:
  Upsampling() {
    write("told.txt", "a {prompt} and");
    std::string prompts;
    for (const char* colour : {"red", "green", "blue", "yellow"})
      for (const char* shape : {"circle", "square", "triangle"})
        prompts += fmt::format("{} {}\n", colour, shape);
    write("prompts.txt", prompts);
  }
  /// Options of a run with the miniature model, which knows no chat.
  std::string options(const std::string& out, const std::string& more = "--batch 2") const {
    return fmt::format(
        "upsample --model '{}' --chat none --instructions '{}' --out '{}' "
        "--temperature 1 --max-new-tokens 24 {} {}",
        miniature, at("told.txt"), at(out),
        more.find("--index") == std::string::npos ? fmt::format("--prompts '{}'", at("prompts.txt"))
                                                  : "",
        more);
  }
};

TEST_F(Upsampling, RanksAndBatchChangeNoByte) {
  const Outcome alone = strata(options("alone"));
  ASSERT_EQ(alone.code, 0) << alone.out;
  const std::string want = read_file(at("alone"));
  EXPECT_EQ(std::count(want.begin(), want.end(), '\n'), 12);
  for (const int ranks : {1, 2, 3}) {
    const std::string out = fmt::format("ranks-{}", ranks);
    const Outcome run = strata(options(out), ranks);
    ASSERT_EQ(run.code, 0) << run.out;
    EXPECT_EQ(read_file(at(out)), want) << ranks;
  }
  ASSERT_EQ(strata(options("batch", "--batch 5"), 2).code, 0);
  EXPECT_EQ(read_file(at("batch")), want);
  ASSERT_EQ(strata(options("seed", "--seed 1")).code, 0);
  EXPECT_NE(read_file(at("seed")), want);
  EXPECT_EQ(strata(options("alone")).code, 73);
  EXPECT_EQ(read_file(at("alone")), want);
}

TEST_F(Upsampling, KilledInTheMiddleGoesOnToTheSameBytes) {
  ASSERT_EQ(strata(options("whole")).code, 0);
  const std::string folder = at(".partial/killed");
  int kills = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const std::string command =
          fmt::format("exec '{}' {} 2>/dev/null", STRATA_BINARY, options("killed"));
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    // Until this attempt's journal holds an answer.
    const std::string journal = fmt::format("{}/rank-0-{}.journal", folder, attempt);
    int status = 0;
    std::error_code none;
    while (waitpid(child, &status, WNOHANG) == 0 &&
           (!fs::exists(journal, none) || fs::file_size(journal, none) == 0))
      usleep(500);
    if (kill(child, SIGKILL) == 0) {
      waitpid(child, &status, 0);
      kills += !fs::exists(at("killed"));
    }
  }
  EXPECT_GE(kills, 1) << "the kills came too late to mean anything";
  EXPECT_EQ(strata(options("killed", "--seed 9")).code, 73) << "work of other settings";
  const Outcome rest = strata(options("killed"), 2);
  ASSERT_EQ(rest.code, 0) << rest.out;
  EXPECT_EQ(read_file(at("killed")), read_file(at("whole")));
  EXPECT_FALSE(fs::exists(at(".partial")));
}

TEST_F(Upsampling, ARewrittenIndexIsOneThatCacheTextReads) {
  fs::create_directories(at("data"));
  write("data/index.jsonl",
        "{\"caption\": \"red circle\", \"captions\": [\"red circle\"], \"image\": \"a.png\"}\n"
        "{\"caption\": \"blue square\", \"image\": \"b.png\", \"source\": 7}\n");
  const Outcome run =
      strata(options("new.jsonl", fmt::format("--index '{}'", at("data/index.jsonl"))), 2);
  ASSERT_EQ(run.code, 0) << run.out;
  std::ifstream file(at("new.jsonl"));
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  EXPECT_EQ(json::parse(line)["image"], "data/a.png");
  ASSERT_TRUE(std::getline(file, line));
  const json second = json::parse(line);
  EXPECT_EQ(second["captions"][1], "blue square");
  EXPECT_EQ(second["captions"][0], second["caption"]);
  EXPECT_EQ(second["source"], 7);
  const Outcome cache =
      strata(fmt::format("cache text --encoder '{}' --index '{}' --strategy last --out '{}'",
                         miniature, at("new.jsonl"), at("caches")));
  EXPECT_EQ(cache.code, 0) << cache.out;
  EXPECT_TRUE(fs::exists(at("caches/last/manifest.json")));
}

TEST_F(Upsampling, TheInstructionsDecideWhatIsTold) {
  ASSERT_EQ(strata(options("with")).code, 0);
  write("told.txt", "a {prompt} ends\n");
  ASSERT_EQ(strata(options("other")).code, 0);
  write("told.txt", "a vivid picture of\n");
  ASSERT_EQ(strata(options("without")).code, 0);
  EXPECT_NE(read_file(at("with")), read_file(at("other")));
  EXPECT_NE(read_file(at("with")), read_file(at("without")));
  for (const auto& [text, cause] : {std::pair{" \n", "holds no instructions"}, {"\xFF", "UTF-8"}}) {
    write("told.txt", text);
    const Outcome run = strata(options("bad"));
    EXPECT_EQ(run.code, 65) << run.out;
    EXPECT_NE(run.out.find(cause), std::string::npos) << run.out;
  }
  EXPECT_FALSE(fs::exists(at("bad")));
  EXPECT_EQ(strata("upsample --model x --out y").code, 64);
  EXPECT_EQ(strata("upsample --model x --out y --prompts a --index b").code, 64);
}

}  // namespace
}  // namespace strata
