// index.jsonl from every layout, with the broken pictures that real collections hold.

#include "data/index.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/image.hpp"
#include "temporary_folder.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

std::string golden(const std::string& name) {
  return read_file(std::string(STRATA_SOURCE_DIR) + "/tests/golden/image/" + name);
}

void write(const std::string& path, const std::string& content) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

void write_tar(const std::string& path,
               const std::vector<std::pair<std::string, std::string>>& members, bool pax = false) {
  archive* tar = archive_write_new();
  pax ? archive_write_set_format_pax(tar) : archive_write_set_format_ustar(tar);
  ASSERT_EQ(archive_write_open_filename(tar, path.c_str()), ARCHIVE_OK);
  for (const auto& [name, content] : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    ASSERT_EQ(archive_write_header(tar, entry), ARCHIVE_OK);
    archive_write_data(tar, content.data(), content.size());
    archive_entry_free(entry);
  }
  ASSERT_EQ(archive_write_close(tar), ARCHIVE_OK);
  archive_write_free(tar);
}

class IndexTest : public testing::Test {
 protected:
  IndexReport build(const std::vector<std::string>& inputs, double max_bad = 0.001,
                    const std::string& images = {}) {
    IndexOptions options;
    options.inputs = inputs;
    options.images = images;
    options.out = folder_ / "index.jsonl";
    options.max_bad = max_bad;
    options.threads = 2;
    return build_index(options);
  }
  int failure(const std::vector<std::string>& inputs, std::string* what = nullptr) {
    try {
      build(inputs);
    } catch (const Error& e) {
      if (what) *what = e.what();
      EXPECT_FALSE(file_exists(folder_ / "index.jsonl"));
      EXPECT_FALSE(file_exists(folder_ / "index.jsonl.partial"));
      return static_cast<int>(e.code());
    }
    return 0;
  }
  TemporaryFolder folder_;
};

TEST_F(IndexTest, FolderWithJsonLines) {
  write(folder_ / "photos/a/one.png", golden("rgb.png"));
  write(folder_ / "photos/two.jpg", golden("rgb-420.jpg"));
  write(folder_ / "photos/metadata.jsonl",
        "{\"file_name\": \"two.jpg\", \"text\": \"a smörgås\"}\n\n"
        "{\"image\": \"a/one.png\", \"captions\": [\"first\", \"second\"], \"more\": 3}\r\n");
  const IndexReport report = build({folder_ / "photos"});
  EXPECT_EQ(report.samples, 2);
  EXPECT_EQ(
      read_file(folder_ / "index.jsonl"),
      "{\"image\":\"photos/two.jpg\",\"caption\":\"a smörgås\",\"captions\":[\"a smörgås\"]}\n"
      "{\"image\":\"photos/a/"
      "one.png\",\"caption\":\"first\",\"captions\":[\"first\",\"second\"]}\n");
  EXPECT_EQ(read_file(folder_ / "skipped.jsonl"), "");
  const Index index = Index::load(folder_ / "index.jsonl");
  EXPECT_EQ(index.sha256(), sha256_file(folder_ / "index.jsonl"));
  EXPECT_EQ(index.read_image(0), golden("rgb-420.jpg"));
  EXPECT_EQ(index[1].captions.size(), 2u);
}

TEST_F(IndexTest, TarShardsAreReadAtTheirOffsets) {
  fs::create_directories(folder_ / "shards");
  write_tar(folder_ / "shards/00001.tar",
            {{"000010.json", "{\"caption\": \"from json\", \"width\": 3}"},
             {"000010.webp", golden("lossy.webp")}});
  write_tar(folder_ / "shards/00000.tar",
            {{"000000.jpg", golden("rgb-420.jpg")},
             {"000000.txt", "a caption\n"},
             {"000000.json", "{\"caption\": \"a caption\", \"status\": \"success\"}"},
             {"000002.txt", "order of members does not matter"},
             {"000001.PNG", golden("rgb.png")},
             {"000002.jpeg", golden("rgb-444.jpg")},
             {"000001.txt", "upper case"}},
            true);
  build({folder_ / "shards"});
  const Index index = Index::load(folder_ / "index.jsonl");
  ASSERT_EQ(index.size(), 4);
  EXPECT_EQ(index[0].image, "shards/00000.tar::000000.jpg");
  EXPECT_EQ(index[0].captions, (std::vector<std::string>{"a caption"}));
  EXPECT_EQ(index[1].caption, "order of members does not matter");
  EXPECT_EQ(index[2].image, "shards/00000.tar::000001.PNG");
  EXPECT_EQ(index[3].caption, "from json");
  EXPECT_EQ(index.read_image(0), golden("rgb-420.jpg"));
  EXPECT_EQ(index.read_image(1), golden("rgb-444.jpg"));
  EXPECT_EQ(index.read_image(2), golden("rgb.png"));
  EXPECT_EQ(index.read_image(3), golden("lossy.webp"));
  // Again, named one by one: the same lines.
  const std::string lines = read_file(folder_ / "index.jsonl");
  build({folder_ / "shards/00000.tar", folder_ / "shards/00001.tar"});
  EXPECT_EQ(read_file(folder_ / "index.jsonl"), lines);
}

TEST_F(IndexTest, LongNamesInTarShards) {
  const std::string name = std::string(90, 'd') + "/" + std::string(150, 'k');
  write_tar(folder_ / "long.tar", {{name + ".png", golden("grey.png")}, {name + ".txt", "long"}},
            true);
  build({folder_ / "long.tar"});
  EXPECT_EQ(Index::load(folder_ / "index.jsonl").read_image(0), golden("grey.png"));
}

TEST_F(IndexTest, PicturesWithTextBeside) {
  write(folder_ / "p/b.png", golden("grey.png"));
  write(folder_ / "p/b.txt", "bee\n");
  write(folder_ / "p/a.jpg", golden("grey.jpg"));
  write(folder_ / "p/a.json", "{\"text\": \"ay\"}");
  build({folder_ / "p"});
  const Index index = Index::load(folder_ / "index.jsonl");
  ASSERT_EQ(index.size(), 2);
  EXPECT_EQ(index[0].caption, "ay");
  EXPECT_EQ(index[1].caption, "bee");
}

TEST_F(IndexTest, TextFiles) {
  write(folder_ / "captions.txt", "first\nsecond\r\nthird");
  build({folder_ / "captions.txt"});
  const Index captions = Index::load(folder_ / "index.jsonl");
  ASSERT_EQ(captions.size(), 3);
  EXPECT_EQ(captions[1].caption, "second");
  EXPECT_TRUE(captions[1].image.empty());
  EXPECT_THROW(captions.read_image(1), Error);

  write(folder_ / "p/b.png", golden("grey.png"));
  write(folder_ / "pairs.tsv", "b.png\ta bee\twith a tab\n");
  build({folder_ / "pairs.tsv"}, 0.001, folder_ / "p");
  const Index pairs = Index::load(folder_ / "index.jsonl");
  EXPECT_EQ(pairs[0].image, "p/b.png");
  EXPECT_EQ(pairs[0].caption, "a bee\twith a tab");
}

TEST_F(IndexTest, BadPicturesAreSkippedUpToALimit) {
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += "{\"image\": \"good.png\", \"caption\": \"good\"}\n";
  lines +=
      "{\"image\": \"cut.jpg\", \"caption\": \"cut\"}\n{\"image\": \"none.png\", \"caption\": "
      "\"none\"}\n";
  write(folder_ / "p/good.png", golden("rgb.png"));
  write(folder_ / "p/cut.jpg", golden("rgb-420.jpg").substr(0, 900));
  write(folder_ / "p/list.jsonl", lines);
  std::string what;
  EXPECT_EQ(failure({folder_ / "p"}, &what), 65);
  EXPECT_NE(what.find("2 of 12 samples"), std::string::npos) << what;
  EXPECT_NE(what.find("cut.jpg"), std::string::npos) << what;
  const std::string skipped = read_file(folder_ / "skipped.jsonl");
  EXPECT_NE(skipped.find("truncated"), std::string::npos) << skipped;
  EXPECT_NE(skipped.find("none.png"), std::string::npos) << skipped;

  const IndexReport report = build({folder_ / "p"}, 0.2);
  EXPECT_EQ(report.samples, 10);
  EXPECT_EQ(report.skipped, 2);
  EXPECT_EQ(Index::load(folder_ / "index.jsonl").size(), 10);
}

TEST_F(IndexTest, BadListsAreRefusedByLine) {
  write(folder_ / "p/good.png", golden("rgb.png"));
  const auto refused = [&](const std::string& line) {
    write(folder_ / "p/list.jsonl",
          "{\"image\": \"good.png\", \"caption\": \"ok\"}\n" + line + "\n");
    std::string what;
    EXPECT_EQ(failure({folder_ / "p"}, &what), 65) << line;
    EXPECT_NE(what.find("list.jsonl:2"), std::string::npos) << what;
  };
  refused("{\"image\": \"good.png\"}");
  refused("{\"image\": \"good.png\", \"caption\": 3}");
  refused("{\"image\": 3, \"caption\": \"x\"}");
  refused("[1]");
  refused("{\"image\": ");
  refused("{\"image\": \"good.png\", \"caption\": \"\xff\"}");
  write(folder_ / "bad.txt", "fine\n\xc3\x28\n");
  std::string what;
  EXPECT_EQ(failure({folder_ / "bad.txt"}, &what), 65);
  EXPECT_NE(what.find("bad.txt:2"), std::string::npos) << what;
  write(folder_ / "empty.txt", "");
  EXPECT_EQ(failure({folder_ / "empty.txt"}), 65);
  EXPECT_EQ(failure({folder_ / "nothing"}), 65);
  write(folder_ / "garbage.tar", std::string(2000, 'x'));
  EXPECT_EQ(failure({folder_ / "garbage.tar"}), 65);
  write(folder_ / "shard.tar.gz", "x");
  EXPECT_EQ(failure({folder_ / "shard.tar.gz"}), 65);
}

TEST_F(IndexTest, InvalidCaptionsInShardsAreSkipped) {
  write_tar(folder_ / "s.tar",
            {{"a.png", golden("rgb.png")}, {"a.txt", "\xff\xfe"}, {"b.png", golden("rgb.png")}});
  EXPECT_EQ(failure({folder_ / "s.tar"}), 65);
  const std::string skipped = read_file(folder_ / "skipped.jsonl");
  EXPECT_NE(skipped.find("not valid UTF-8"), std::string::npos) << skipped;
  EXPECT_NE(skipped.find("no caption"), std::string::npos) << skipped;
}

TEST_F(IndexTest, IndexLinesAreChecked) {
  for (const char* line :
       {"{\"image\": \"a.png\"}", "{\"image\": \"a.tar::b.png\", \"caption\": \"x\"}", "3",
        "{\"image\": \"a.tar::b.png\", \"caption\": \"x\", \"offset\": -1, \"bytes\": 3}", ""}) {
    write(folder_ / "index.jsonl", std::string(line) + "\n");
    EXPECT_THROW(Index::load(folder_ / "index.jsonl"), Error) << line;
  }
}

}  // namespace
}  // namespace strata
