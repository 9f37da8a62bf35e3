#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "scratch.h"

namespace caisson {
namespace {

Result<int> doubled(const std::string& text) {
  uint64_t n = TRY(parse_uint(text, 100), "doubling " + text);
  return static_cast<int>(n * 2);
}

TEST(Error, GainsContextAsItClimbs) {
  auto bad = doubled("x");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().message, "doubling x: \"x\" is not a whole number between 0 and 100");
  EXPECT_EQ(*doubled("21"), 42);
}

TEST(Error, NamesPathAndErrno) {
  auto missing = read_file("/no/such/file");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "/no/such/file: No such file or directory");
  EXPECT_EQ(missing.error().code, ENOENT);
}

TEST(Strings, NumbersAreStrict) {
  for (const char* bad : {"", " 1", "1 ", "-1", "+1", "1x", "0x10", "18446744073709551616"}) EXPECT_FALSE(parse_uint(bad)) << bad;
  EXPECT_EQ(*parse_uint("18446744073709551615"), UINT64_MAX);
}

TEST(Strings, SizesHaveDockersSuffixes) {
  EXPECT_EQ(*parse_size("512"), 512u);
  EXPECT_EQ(*parse_size("64k"), 65536u);
  EXPECT_EQ(*parse_size("32M"), 32u << 20);
  EXPECT_EQ(*parse_size("1gb"), 1u << 30);
  for (const char* bad : {"", "k", "1x", "-1m", "99999999999t", "1.5g"}) EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(Strings, StrangersTextIsMadePrintable) {
  EXPECT_EQ(printable("plain, \t\n é € 😀"), "plain, \t\n é € 😀");
  EXPECT_EQ(printable("\x1b[2J\r\x7f"), "\\x1b[2J\\x0d\\x7f");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\xff \xc3 \xe2\x82 \xc2\x9b"), "\\xff \\xc3 \\xe2\\x82 \\xc2\\x9b") << "C1 controls too";
  EXPECT_EQ(printable("\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80"), "\\xc0\\x80\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80") << "overlong, surrogate, beyond";
}

TEST(Strings, PathsAreCleanedLexically) {
  EXPECT_EQ(clean_path("/a/./b//../c/"), "/a/c");
  EXPECT_EQ(clean_path("/../.."), "/");
  EXPECT_EQ(clean_path("a"), "/a");
}

TEST(Files, DurableWriteReplacesWhole) {
  Scratch dir;
  std::string path = dir / "f";
  ASSERT_TRUE(write_file_durably(path, "one"));
  ASSERT_TRUE(write_file_durably(path, "two"));
  EXPECT_EQ(*read_file(path), "two");
  EXPECT_EQ(list_dir(dir.path())->size(), 1u) << "a temporary file was left";
}

TEST(Files, ReadingIsBounded) {
  Scratch dir;
  ASSERT_TRUE(replace_file(dir / "f", std::string(1000, 'x')));
  EXPECT_TRUE(read_file(dir / "f", 1000));
  auto large = read_file(dir / "f", 999);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, EFBIG);
  EXPECT_FALSE(read_file("/dev/zero", 4096)) << "endless files must be refused too";
}

TEST(Files, RemoveTreeDoesNotFollowLinks) {
  Scratch dir, outside;
  ASSERT_TRUE(replace_file(outside / "kept", "x"));
  ASSERT_TRUE(make_dirs(dir / "a/b"));
  ASSERT_EQ(::symlink(outside.path().c_str(), (dir / "a/link").c_str()), 0);
  ASSERT_TRUE(remove_tree(dir / "a"));
  EXPECT_TRUE(exists(outside / "kept"));
  EXPECT_FALSE(exists(dir / "a"));
  EXPECT_TRUE(remove_tree(dir / "a")) << "a missing tree is no error";
}

TEST(Files, LockExcludes) {
  Scratch dir;
  auto held = FileLock::acquire(dir / "lock");
  ASSERT_TRUE(held);
  EXPECT_FALSE(FileLock::try_acquire(dir / "lock"));
}

TEST(Rollback, UndoesInReverseUnlessKept) {
  std::string order;
  {
    Rollback undo;
    undo.on_failure([&] { order += "1"; });
    undo.on_failure([&] { order += "2"; });
  }
  EXPECT_EQ(order, "21");
  {
    Rollback undo;
    undo.on_failure([&] { order += "3"; });
    undo.keep();
  }
  EXPECT_EQ(order, "21");
}

TEST(Process, ReportsExecFailureAsError) {
  auto child = spawn({.argv = {"/no/such/program"}});
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().code, ENOENT);
}

TEST(Process, CollectsOutputAndStatus) {
  auto out = run_and_capture({.argv = {"sh", "-c", "echo out; echo err >&2; exit 3"}});
  ASSERT_TRUE(out);
  EXPECT_EQ(out->out, "out\n");
  EXPECT_EQ(out->err, "err\n");
  EXPECT_EQ(out->status.code, 3);
}

TEST(Process, DoesNotLeakDescriptors) {
  int leak = ::dup(0);
  auto out = run_and_capture({.argv = {"sh", "-c", "ls /proc/self/fd | wc -l"}});
  ::close(leak);
  ASSERT_TRUE(out);
  EXPECT_EQ(trim(out->out), "4") << "0, 1, 2 and the folder that ls reads";
}

TEST(Process, DroppedChildIsKilled) {
  pid_t pid;
  {
    auto child = spawn({.argv = {"sleep", "1000"}});
    ASSERT_TRUE(child);
    pid = child->pid();
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(Json, RefusesDepthAndGarbage) {
  EXPECT_TRUE(parse_json("{\"a\": [1]}", "x"));
  EXPECT_FALSE(parse_json("{\"a\": }", "x"));
  EXPECT_FALSE(parse_json("{} trailing", "x"));
  std::string deep(100000, '[');
  auto refused = parse_json(deep, "deep.json");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("nested deeper than 64"), std::string::npos);
}

TEST(Json, ReaderNamesThePath) {
  Json document = *parse_json(R"({"a": {"b": ["x", 7]}})", "x");
  JsonReader::State state;
  JsonReader r(document, "", state);
  std::vector<std::string> list;
  r.object("a", [&](JsonReader& a) { a.get("b", list); });
  EXPECT_EQ(state.error, "a.b[1]: expected a string");
}

TEST(EventLoop, RunsTimersInOrder) {
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  std::string order;
  loop->after(20, [&] {
    order += "b";
    loop->stop();
  });
  loop->after(1, [&] { order += "a"; });
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(order, "ab");
}

}  // namespace
}  // namespace caisson
