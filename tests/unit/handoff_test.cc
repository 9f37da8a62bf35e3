// What one end of a connection of the element "sockets" hands to the other.
#include "sockets/handoff.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace caisson::element {
namespace {

constexpr uint64_t kForEver = ~uint64_t{0};
constexpr uint64_t asked(uint64_t bytes) { return bytes << 32; }

struct Memory {
  Handoff handoff;
  std::vector<char> room = std::vector<char>(kHandoffRoom);
};

TEST(Handoff, GivesWhatIsAskedFor) {
  Memory m;
  EXPECT_FALSE(may_give(m.handoff, 0));
  EXPECT_EQ(give(m.handoff, m.room.data(), "early", 5), 0u);
  Turn turn(m.handoff, m.room.data(), 8, kForEver);
  ASSERT_TRUE(turn.open());
  EXPECT_TRUE(may_give(m.handoff, 0));
  EXPECT_FALSE(turn.given());
  EXPECT_EQ(give(m.handoff, m.room.data(), "abc", 3), 3u);
  EXPECT_EQ(give(m.handoff, m.room.data(), "more than fits", 14), 0u) << "what is short is given whole";
  char to[8] = {};
  EXPECT_TRUE(turn.given());
  EXPECT_EQ(turn.take(to), 3u);
  EXPECT_EQ(give(m.handoff, m.room.data(), "defgh", 5), 5u);
  EXPECT_FALSE(may_give(m.handoff, 0)) << "there is no room left";
  EXPECT_EQ(turn.close(to), 8u);
  EXPECT_EQ(std::string(to, 8), "abcdefgh");
  EXPECT_EQ(give(m.handoff, m.room.data(), "late", 4), 0u);
}

TEST(Handoff, OneReceiverAtATime) {
  Memory m;
  Turn first(m.handoff, m.room.data(), 8, kForEver);
  Turn second(m.handoff, m.room.data(), 8, kForEver);
  EXPECT_TRUE(first.open());
  EXPECT_FALSE(second.open());
  char to[8];
  EXPECT_EQ(second.close(to), 0u);
  EXPECT_EQ(give(m.handoff, m.room.data(), "x", 1), 1u) << "the first is open still";
  EXPECT_EQ(first.close(to), 1u);
  EXPECT_TRUE(Turn(m.handoff, m.room.data(), 8, kForEver).open());
}

TEST(Handoff, AReceiverThatWasKilledGetsNothing) {
  Memory m;
  Turn turn(m.handoff, m.room.data(), 8, ticks());
  EXPECT_FALSE(may_give(m.handoff, ticks() + 1));
  EXPECT_EQ(give(m.handoff, m.room.data(), "x", 1), 0u);
}

TEST(Handoff, WhatDoesNotFitIsNoTurn) {
  for (uint64_t state : {asked(kHandoffRoom + 1), asked(0xffffffff), asked(5) | 6, asked(5) | 0xffffffff, ~uint64_t{0}}) {
    Memory m;
    m.handoff.state = state;
    m.handoff.until = kForEver;
    std::vector<char> much(3 * kHandoffRoom);
    EXPECT_EQ(give(m.handoff, m.room.data(), much.data(), much.size()), 0u) << std::hex << state;
    EXPECT_EQ(give(m.handoff, m.room.data(), "x", 1), 0u) << std::hex << state;
  }
  // Of the receiver's own turn: more than it asked for, or another one.
  for (uint64_t lie : {asked(8) | 9, asked(8) | 0xffffffff, asked(9) | 9, asked(7) | 7, uint64_t{8}}) {
    Memory m;
    Turn turn(m.handoff, m.room.data(), 8, kForEver);
    m.handoff.state = lie;
    char to[9] = "________";
    EXPECT_FALSE(turn.given()) << std::hex << lie;
    EXPECT_EQ(turn.take(to), 0u);
    EXPECT_EQ(turn.close(to), 0u);
    EXPECT_STREQ(to, "________");
  }
}

TEST(Handoff, NothingIsLostBetweenTwoWhoHurry) {
  Memory m;
  constexpr size_t kAll = 8u << 20;
  auto byte_at = [](size_t at) { return static_cast<char>(at * 31 + (at >> 8)); };
  std::atomic<bool> failed = false;
  std::thread sender([&] {
    std::mt19937 random(1);
    std::vector<char> data(300'000);
    for (size_t at = 0; at < kAll && !failed;) {
      size_t n = std::min<size_t>(random() % 3 == 0 ? 1 + random() % data.size() : 1 + random() % 200, kAll - at);
      for (size_t i = 0; i < n; ++i) data[i] = byte_at(at + i);
      for (size_t done = 0; done < n && !failed;) done += give(m.handoff, m.room.data(), data.data() + done, n - done);
      at += n;
    }
  });
  std::mt19937 random(2);
  std::vector<char> to(200'000);
  for (size_t at = 0; at < kAll && !failed;) {
    size_t most = random() % 3 == 0 ? 1 + random() % to.size() : 200 + random() % 200;
    Turn turn(m.handoff, m.room.data(), most, kForEver);
    for (unsigned i = random() % 100; i > 0 && !turn.given(); --i) pause_a_moment();
    if (random() % 2 == 0) turn.take(to.data());
    size_t n = turn.close(to.data());
    failed = n > most;
    for (size_t i = 0; i < n && !failed; ++i) failed = to[i] != byte_at(at + i);
    at += n;
    if (n == 0) std::this_thread::yield();
  }
  sender.join();
  EXPECT_FALSE(failed);
}

}  // namespace
}  // namespace caisson::element
