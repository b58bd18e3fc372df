// What a run leaves behind: TensorBoard frames, JSON lines, exit.json; and the stop flag.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "event.pb.h"
#include "train/appended_file.hpp"
#include "train/metrics.hpp"
#include "train/run_folder.hpp"
#include "train/tensorboard.hpp"

namespace strata {
namespace {

class Records : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "records-" + std::to_string(getpid());
    std::filesystem::remove_all(dir_);
    make_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

/// Takes a TFRecord file apart, checking both CRCs of every frame.
std::vector<tensorboard::Event> events_of(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<tensorboard::Event> events;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length;
    std::uint32_t length_crc, crc;
    EXPECT_LE(at + 12, bytes.size());
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&length_crc, &bytes[at + 8], 4);
    EXPECT_EQ(length_crc, masked_crc32c({&bytes[at], 8}));
    EXPECT_LE(at + 16 + length, bytes.size());
    std::memcpy(&crc, &bytes[at + 12 + length], 4);
    EXPECT_EQ(crc, masked_crc32c({&bytes[at + 12], length}));
    tensorboard::Event event;
    EXPECT_TRUE(event.ParseFromArray(&bytes[at + 12], static_cast<int>(length)));
    events.push_back(event);
    at += 16 + length;
  }
  return events;
}

TEST_F(Records, MaskedCrcIsTfRecords) {
  // CRC-32C of 32 zero bytes is 8a9136aa (RFC 3720, B.4); masked by hand.
  const std::string zeros(32, '\0');
  const std::uint32_t crc = 0x8a9136aa;
  EXPECT_EQ(masked_crc32c(zeros), ((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

TEST_F(Records, TensorBoardFileParsesBack) {
  std::string path;
  {
    TensorBoardWriter board(dir_ + "/tensorboard");
    path = board.path();
    const std::vector<std::pair<std::string, double>> values{{"loss/train", 0.5}, {"lr", 1e-4}};
    board.scalars(7, values);
    std::string png = "\x89PNG\r\n\x1a\n";
    png += std::string("\0\0\0\rIHDR\0\0\0\x40\0\0\0\x20", 16);
    board.image(8, "samples/00000", png);
    board.image(8, "samples/none", "not a png");
  }
  EXPECT_NE(path.find("events.out.tfevents."), std::string::npos);
  const auto events = events_of(path);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].step(), 7);
  ASSERT_EQ(events[1].summary().value_size(), 2);
  EXPECT_EQ(events[1].summary().value(0).tag(), "loss/train");
  EXPECT_EQ(events[1].summary().value(0).simple_value(), 0.5f);
  EXPECT_GT(events[1].wall_time(), 1.7e9);
  EXPECT_EQ(events[2].summary().value(0).image().width(), 64);
  EXPECT_EQ(events[2].summary().value(0).image().height(), 32);
}

TEST_F(Records, MetricsHaveExactlyTheContractsKeys) {
  StepRecord r;
  r.step = 3;
  r.loss = std::numeric_limits<double>::quiet_NaN();
  const auto json = nlohmann::ordered_json::parse(r.to_json());
  std::string keys;
  for (const auto& [key, value] : json.items()) keys += key + " ";
  EXPECT_EQ(keys,
            "step samples epoch loss lr grad_norm images_per_s images_per_s_per_rank mfu step_s "
            "data_s comm_s mem_gb ");
  EXPECT_TRUE(json["loss"].is_null());
}

/// A limit of the file's size stands for a full disk: the call fails in the same place.
TEST_F(Records, ARecordThatDoesNotFitIsLostWholeAndTheNextOneIsNot) {
  const std::string path = dir_ + "/log", first(3000, '1'), second(3000, '2');
  AppendedFile file(path, O_WRONLY);
  file.append(first);
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit narrow = before;
  narrow.rlim_cur = 4096;
  std::signal(SIGXFSZ, SIG_IGN);
  testing::internal::CaptureStderr();
  setrlimit(RLIMIT_FSIZE, &narrow);
  file.append(second);
  file.append(second);
  setrlimit(RLIMIT_FSIZE, &before);
  const std::string said = testing::internal::GetCapturedStderr();
  file.append("third");
  EXPECT_EQ(read_file(path), first + "third");
  EXPECT_NE(said.find(path), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(Records, ATornLastLineIsCutOff) {
  const std::string path = dir_ + "/log/lines";
  { LineLog(path).append("one"); }
  std::ofstream(path, std::ios::app) << "to" << std::string(10000, 'r') << "n";
  { LineLog(path).append("two"); }
  EXPECT_EQ(read_file(path), "one\ntwo\n");
  std::ofstream(path) << "no line feed at all";
  { LineLog(path).append("first"); }
  EXPECT_EQ(read_file(path), "first\n");
}

TEST_F(Records, ExitNoteSaysWhatABatchScriptNeeds) {
  const RunFolder run{dir_};
  write_exit_note(run, Exit::requeue, 3, "stopped \"so\" \xff");
  const auto note = nlohmann::json::parse(read_file(run.exit_note()));
  EXPECT_EQ(note["code"], 75);
  EXPECT_EQ(note["rank"], 3);
  EXPECT_EQ(note["restart"], true);
  EXPECT_NE(note["cause"].get<std::string>().find("stopped \"so\""), std::string::npos);
  write_exit_note(run, Exit::numerics, 0, "x");
  EXPECT_EQ(nlohmann::json::parse(read_file(run.exit_note()))["restart"], false);
  write_exit_note({dir_ + "/new"}, Exit::numerics, 0, "x");  // a failure before the first file
  EXPECT_TRUE(file_exists(RunFolder{dir_ + "/new"}.exit_note()));
  write_exit_note({"/proc/none"}, Exit::numerics, 0, "x");  // nothing to be done: no throw
}

TEST_F(Records, FolderNamesAreTheContracts) {
  const RunFolder run{"/r"};
  EXPECT_EQ(run.dump(3, 1), "/r/dump/step-3.rank-1.safetensors");
  EXPECT_EQ(run.samples(1000), "/r/samples/step-00001000");
  EXPECT_EQ(run.log(0), "/r/log/rank-00000.log");
  EXPECT_EQ(run.checkpoints(), "/r/checkpoints");
}

}  // namespace
}  // namespace strata
