#include "evaluate/journal.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "core/error.hpp"
#include "tests/data/temporary_folder.hpp"

namespace strata {
namespace {

using Rows = std::map<std::size_t, std::string>;

Rows rows_of(const JournalFolder& folder) {
  Rows rows;
  folder.read([&](std::size_t row, std::string&& text) { rows.insert_or_assign(row, text); });
  return rows;
}

void expect_error(Exit code, const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
  }
}

class JournalTest : public testing::Test {
 protected:
  JournalTest() : folder_(dir_ / "work") {}
  std::string file(int rank, int number = 0) const {
    return dir_ / fmt::format("work/rank-{}-{}.journal", rank, number);
  }
  TemporaryFolder dir_;
  JournalFolder folder_;
};

TEST_F(JournalTest, ReadsWhatSeveralProcessesAndAttemptsWrote) {
  const std::string hard = "line\nbreak \"quotes\" \xE2\x96\x81 " + std::string(100000, 'x');
  folder_.prepare("plan", false);
  EXPECT_TRUE(rows_of(folder_).empty());
  Journal(folder_, 0).append(7, hard);
  Journal(folder_, 1).append(2, "");
  Journal again(folder_, 0);
  again.append(0, "zero");
  again.append(1, "one");
  EXPECT_TRUE(file_exists(file(0, 1)));
  EXPECT_EQ(rows_of(folder_), (Rows{{0, "zero"}, {1, "one"}, {2, ""}, {7, hard}}));
  folder_.remove();
  EXPECT_FALSE(file_exists(dir_ / "work/plan.json"));
}

TEST_F(JournalTest, EveryTornOrDamagedLineCountsAsNotWritten) {
  folder_.prepare("plan", false);
  {
    Journal journal(folder_, 0);
    journal.append(0, "the first");
    journal.append(1, "the second");
  }
  const std::string whole = read_file(file(0));
  const std::size_t first = whole.find('\n') + 1;
  const auto read = [&](const std::string& bytes) {
    std::ofstream(file(0), std::ios::binary) << bytes;
    return rows_of(folder_);
  };
  const Rows both{{0, "the first"}, {1, "the second"}}, one{{0, "the first"}};
  EXPECT_EQ(read(whole), both);
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_EQ(read(whole.substr(0, size)), size < first ? Rows{} : one) << size;
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
      const Rows rows = read(flipped);
      EXPECT_LT(rows.size(), 2u) << at << " " << bit;
      for (const auto& [row, text] : rows) EXPECT_EQ(text, both.at(row)) << at << " " << bit;
    }
  // Right sums over what no journal holds.
  for (const std::string json :
       {"[]", "[1]", "[-1,\"x\"]", "[1,2]", "{}", "[1,\"x\"", "[1.5,\"x\"]"})
    EXPECT_EQ(read(fmt::format("{:08x} {}\n", crc32c(0, json.data(), json.size()), json)), Rows{})
        << json;
}

TEST_F(JournalTest, BelongsToOnePlan) {
  const auto write = [&](const std::string& plan, bool overwrite) {
    JournalFolder folder(dir_ / "work");
    folder.prepare(plan, overwrite);
    Journal(folder, 0).append(0, plan);
  };
  write("one", false);
  write("one", false);
  expect_error(Exit::cannot_create, [&] { write("other", false); });
  EXPECT_EQ(rows_of(folder_), (Rows{{0, "one"}}));
  write("other", true);
  EXPECT_EQ(rows_of(folder_), (Rows{{0, "other"}}));
  EXPECT_FALSE(file_exists(file(0, 1)));
}

TEST_F(JournalTest, BelongsToOneLiveJob) {
  JournalFolder other(dir_ / "work");
  folder_.prepare("plan", false);
  expect_error(Exit::owned, [&] { other.prepare("plan", true); });
  // Whatever ends the other job, its lock is gone.
  const pid_t child = fork();
  if (child == 0) {
    JournalFolder(dir_ / "elsewhere").prepare("plan", false);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  JournalFolder(dir_ / "elsewhere").prepare("plan", false);
}

}  // namespace
}  // namespace strata
