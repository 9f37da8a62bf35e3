#include <gtest/gtest.h>

#include "rootless/subordinate_ids.h"

namespace caisson::rootless {
namespace {

TEST(SubordinateIds, FollowTheOwnIdWithoutAGap) {
  EXPECT_EQ(*id_map("bob:1:1\nalice:200000:1000\n\n# not a line\n1000:500000:5\nalice:300000:0\n", "alice", 1000, 1000), "0 1000 1\n1 200000 1000\n1001 500000 5\n");
  EXPECT_EQ(*id_map("alice:200000:10", "alice", 1000, 100), "0 100 1\n1 200000 10\n") << "a group's own id is not the user's";
  EXPECT_EQ(*id_map("", "alice", 1000, 1000), "0 1000 1\n");
  EXPECT_EQ(*id_map("alicea:200000:10\nalice:200000\n", "alice", 1000, 1000), "0 1000 1\n") << "of others, and no line";
}

TEST(SubordinateIds, AreRefusedWhereThereAreNone) {
  for (const char* text : {"alice:4294967290:65536", "alice:0:4294967295", "alice:x:1", "alice:1:-1", "alice:1:4294967296", "alice:99999999999999999999:1"}) EXPECT_FALSE(id_map(text, "alice", 1000, 1000).has_value()) << text;
}

}  // namespace
}  // namespace caisson::rootless
