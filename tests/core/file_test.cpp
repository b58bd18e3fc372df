// Files: what is written goes where it is meant to and nowhere else; what is read is proven to be
// there.

#include "core/file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/byte_reader.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/json_object.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  Files() : dir_(testing::TempDir() + "files-" + std::to_string(getpid())) {
    fs::remove_all(dir_);
    make_directories(dir_);
  }
  ~Files() override { fs::remove_all(dir_); }
  std::string dir_;
};

/// What the Error says that fn throws; empty when it throws none.
template <class Function>
std::string problem_of(Function fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.code() == Exit::data ? error.what() : "another code";
  }
  return "";
}

TEST_F(Files, AnAtomicWriteGoesThroughNoLinkThatSomebodyPlanted) {
  const std::string victim = dir_ + "/victim", out = dir_ + "/out";
  write_file_atomically(victim, "precious");
  fs::create_symlink(victim, out);
  fs::create_symlink(victim, out + ".tmp-" + std::to_string(getpid()));
  write_file_atomically(out, "new");
  EXPECT_EQ(read_file(victim), "precious");
  EXPECT_EQ(read_file(out), "new");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(out)));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 2);
}

TEST_F(Files, WritesAndReadsAreWhole) {
  const std::string path = dir_ + "/file";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(write_fully(fd, "0123"));
  EXPECT_TRUE(write_fully_at(fd, "ab", 1));
  std::string all(6, '?');
  EXPECT_EQ(read_fully_at(fd, all.data(), all.size(), 0), 4);
  EXPECT_EQ(all, "0ab3??");
  close(fd);
  EXPECT_FALSE(write_fully(fd, "x"));
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(read_fully_at(fd, all.data(), 1, 0), -1);
}

/// What the Error says that fn throws for a user who may not enter `closed`; root becomes nobody.
template <class Function>
void expect_refused(const std::string& closed, Function fn) {
  ASSERT_EQ(chmod(closed.c_str(), 0), 0);
  EXPECT_EXIT(
      {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(1);
        try {
          fn();
        } catch (const Error& error) {
          fmt::print(stderr, "{}\n", error.what());
          _exit(static_cast<int>(error.code()));
        }
        _exit(0);
      },
      testing::ExitedWithCode(static_cast<int>(Exit::permission)), "Permission denied");
  ASSERT_EQ(chmod(closed.c_str(), 0700), 0);
}

TEST_F(Files, WhatMayNotBeLookedAtIsNotSaidToBeMissing) {
  const std::string inside = dir_ + "/file";
  write_file_atomically(inside, "x");
  expect_refused(dir_, [&] { file_exists(inside); });
  expect_refused(dir_, [&] { directory_exists(inside); });
  expect_refused(dir_, [&] { read_file(inside); });
  EXPECT_TRUE(file_exists(inside));
  EXPECT_FALSE(file_exists(dir_));
  EXPECT_FALSE(file_exists(inside + "/further"));
  EXPECT_FALSE(file_exists(dir_ + "/" + std::string(300, 'x')));
  EXPECT_TRUE(directory_exists(dir_));
}

TEST(ByteReader, ReadsWhatIsThereAndRefusesTheRest) {
  const std::string_view bytes(
      "\x01\x00\x00\x00"
      "abc"
      "\x96\x01",
      9);
  ByteReader in(bytes, "file");
  EXPECT_EQ(in.number<std::uint32_t>(), 1u);
  EXPECT_EQ(in.take(3), "abc");
  EXPECT_EQ(in.varint(), 150u);
  EXPECT_TRUE(in.at_end());
  EXPECT_EQ(problem_of([&] { in.take(1); }), "file: offset 9: cut off: 0 bytes of 1");
  EXPECT_EQ(problem_of([&] { ByteReader(bytes, "file").take(UINT64_MAX); }),
            "file: offset 0: cut off: 9 bytes of 18446744073709551615");
  const std::string endless(11, '\xff');
  EXPECT_NE(problem_of([&] { ByteReader(endless, "file").varint(); }), "");
  EXPECT_NE(problem_of([&] { ByteReader("\xff", "file").varint(); }), "");
}

TEST(JsonObject, ProvesTypeRangeAndThatNothingIsLeft) {
  const auto json =
      parse_json(R"({"n": 5, "big": 18446744073709551615, "t": "x", "z": null, "a": [1]})", "file");
  JsonObject in(json, "file");
  EXPECT_EQ(in.integer("n", 0, 5), 5);
  EXPECT_EQ(in.text_or_null("z"), "");
  EXPECT_EQ(in.array("a").size(), 1u);
  EXPECT_EQ(problem_of([&] { in.finish(); }), "file: has keys that are not known");
  for (const char* key : {"big", "t", "z", "a", "absent"})
    EXPECT_NE(
        problem_of([&] { JsonObject(json, "file").integer(key, INT64_MIN, INT64_MAX); }).find(key),
        std::string::npos);
  EXPECT_NE(problem_of([&] { JsonObject(json, "file").integer("n", 0, 4); }), "");
  EXPECT_NE(problem_of([&] { JsonObject(json, "file").text("n"); }), "");
  EXPECT_NE(problem_of([&] { JsonObject(json, "file").digest_or_null("t"); }), "");
  EXPECT_NE(problem_of([&] { JsonObject(json, "file").number("t", 0, 1); }), "");
  EXPECT_NE(problem_of([&] { JsonObject(json["a"], "file"); }), "");
  EXPECT_EQ(in.text("t"), "x");
  EXPECT_EQ(in.number("big", 0, 1e30), 1.8446744073709552e19);
  EXPECT_EQ(problem_of([&] { in.finish(); }), "");
}

}  // namespace
}  // namespace strata
