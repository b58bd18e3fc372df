// The rules by which processes share weight layouts, without processes.

#include "core/shared_layouts.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace strata {
namespace {

using Turn = SharedLayouts::Turn;

/// Users of one memory, each of which could be a process.
struct Users {
  explicit Users(int count, std::int64_t layouts = 4096, int here = 100)
      : bytes(SharedLayouts::bytes_for(layouts, count)),
        memory(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<std::size_t>(bytes))),
               std::free) {
    std::memset(memory.get(), 0, static_cast<std::size_t>(bytes));
    for (int user = 0; user < std::min(count, here); ++user)
      all.emplace_back(memory, bytes, user, count);
  }
  SharedLayouts& operator[](int user) { return all[static_cast<std::size_t>(user)]; }

  std::int64_t bytes;
  std::shared_ptr<std::byte> memory;
  std::vector<SharedLayouts> all;
};

constexpr std::uint64_t key = 7;

TEST(SharedLayouts, OneWritesAndTheOthersReadOnceItIsThere) {
  Users users(3);
  SharedLayouts::Slot* const slot = users[0].slot(key, 100);
  ASSERT_NE(slot, nullptr);
  EXPECT_EQ(users[1].slot(key, 100), slot);
  EXPECT_NE(users[1].slot(key + 1, 100), slot);
  EXPECT_EQ(users[0].turn(*slot), Turn::write);
  EXPECT_EQ(users[1].turn(*slot), Turn::elsewhere);  // nobody waits
  EXPECT_EQ(users[0].turn(*slot), Turn::elsewhere);
  users[0].written(*slot);
  for (int user = 0; user < 3; ++user) EXPECT_EQ(users[user].turn(*slot), Turn::read);
  EXPECT_EQ(users[0].data(*slot), users[2].data(*slot));
}

TEST(SharedLayouts, NothingIsOverwrittenThatSomebodyMayRead) {
  Users users(2);
  SharedLayouts::Slot* const slot = users[0].slot(key, 100);
  ASSERT_EQ(users[0].turn(*slot), Turn::write);
  users[0].written(*slot);
  users[0].weights_changed();
  EXPECT_EQ(users[0].turn(*slot), Turn::elsewhere);  // user 1 has not left the first version
  EXPECT_EQ(users[1].turn(*slot), Turn::read);
  users[1].weights_changed();
  EXPECT_EQ(users[1].turn(*slot), Turn::write);
  users[0].weights_changed();
  EXPECT_EQ(users[0].turn(*slot), Turn::elsewhere);  // the second is in the making
  users[1].written(*slot);
  EXPECT_EQ(users[1].turn(*slot), Turn::read);
  EXPECT_EQ(users[0].turn(*slot), Turn::elsewhere);  // it is not the third
}

TEST(SharedLayouts, OneThatIsBehindTakesNothingOfALaterVersion) {
  Users users(2);
  SharedLayouts::Slot* const slot = users[0].slot(key, 100);
  for (const int user : {0, 1}) users[user].weights_changed();
  users[1].weights_changed();
  EXPECT_EQ(users[0].turn(*slot), Turn::write);
  users[0].written(*slot);
  users[0].weights_changed();
  EXPECT_EQ(users[1].turn(*slot), Turn::write);
  users[1].written(*slot);
  EXPECT_EQ(users[0].turn(*slot), Turn::read);
}

TEST(SharedLayouts, WhoEndsInTheMiddleHoldsUpNobody) {
  Users users(3);
  SharedLayouts::Slot* const slot = users[0].slot(key, 100);
  ASSERT_EQ(users[0].turn(*slot), Turn::write);  // and is never heard of again
  for (int version = 0; version < 3; ++version)
    for (const int user : {1, 2}) {
      EXPECT_EQ(users[user].turn(*slot), Turn::elsewhere);
      users[user].weights_changed();
    }
}

TEST(SharedLayouts, WithoutEveryUserNothingIsWritten) {
  Users users(2, 64, 1);
  EXPECT_EQ(users[0].turn(*users[0].slot(key, 10)), Turn::elsewhere);
}

TEST(SharedLayouts, LayoutsDoNotOverlapAndTheMemoryIsNotOverrun) {
  Users users(2, 256);
  const auto* a = users[0].slot(1, 65);
  const auto* b = users[1].slot(2, 64);
  ASSERT_TRUE(a && b);
  EXPECT_GE(users[0].data(*b) - users[0].data(*a), 65);
  EXPECT_LE(users[0].data(*b) + 64, users.memory.get() + users.bytes);
  EXPECT_EQ(users[0].used(), 192);
  EXPECT_EQ(users[0].slot(3, 65), nullptr);
  EXPECT_EQ(users[1].slot(3, 65), nullptr);
  EXPECT_EQ(users[1].used(), 256);
  EXPECT_NE(users[1].slot(1, 65), nullptr);
}

}  // namespace
}  // namespace strata
