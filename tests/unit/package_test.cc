#include "elements/package.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "base/fd.h"
#include "elements/elements.h"
#include "scratch.h"

using namespace caisson;
using namespace caisson::elements;

TEST(FilesOptions, WhatIsAsked) {
  auto plain = parse_files("a.package,at=/srv//site/");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->package, "a.package");
  EXPECT_EQ(plain->at, "/srv/site");
  EXPECT_FALSE(plain->copy_on_write);
  auto all = parse_files("/p,copy-on-write=/c,key=/k,at=/t");
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->copy_on_write && all->folder == "/c" && all->key == "/k");
  EXPECT_TRUE(parse_files("p,at=/t,copy-on-write,size=3m")->size == "3m");
}

TEST(FilesOptions, WhatIsNone) {
  for (const char* text : {"", "p", "at=/t", "p,at=", "p,at=t", "p,at=/", "p,at=/..", "p,at=/t,more", "p,at=/t,copy-on-write=c", "p,at=/t,size=x", "p,at=/t,copy-on-write=/c,size=1m", "p,at=/a\nkey x"}) EXPECT_FALSE(parse_files(text)) << text;
  EXPECT_FALSE(parse_files("p,at=/" + std::string(2000, 'x')));
}

TEST(FilesOptions, PathsAreWhole) {
  EXPECT_EQ(with_whole_paths("files=p,at=/t,key=k,size=1m", "/here"), "files=/here/p,at=/t,key=/here/k,size=1m");
  EXPECT_EQ(with_whole_paths("files=/p,key=/k,at=/t", "/here"), "files=/p,key=/k,at=/t");
  EXPECT_EQ(with_whole_paths("clock=+1d", "/here"), "clock=+1d");
  EXPECT_EQ(with_whole_paths("files=", "/here"), "files=");
}

class Packages : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(make_dirs(scratch_.path() + "/t/d"));
    ASSERT_TRUE(write_new_file(scratch_.path() + "/t/a", "hello", 0640));
    ASSERT_TRUE(write_new_file(scratch_.path() + "/t/d/big", std::string(300'000, 'x')));
    ASSERT_EQ(::link((scratch_.path() + "/t/a").c_str(), (scratch_.path() + "/t/d/same").c_str()), 0);
    ASSERT_EQ(::symlink("a", (scratch_.path() + "/t/l").c_str()), 0);
  }
  [[nodiscard]] std::string package() const { return scratch_.path() + "/p"; }
  Result<Packed> make(const PackOptions& options) { return pack(scratch_.path() + "/t", package(), options); }
  Scratch scratch_;
  const std::string key_ = std::string(64, 'a');
};

TEST_F(Packages, AreListedAndVerified) {
  for (const auto& options : {PackOptions{}, PackOptions{.zstd = true}, PackOptions{.zstd = true, .key = key_}}) {
    auto packed = make(options);
    ASSERT_TRUE(packed) << packed.error().message;
    EXPECT_EQ(packed->entries, 6);
    EXPECT_EQ(packed->content, 300'005);
    auto open = OpenPackage::open(package(), options.key);
    ASSERT_TRUE(open) << open.error().message;
    EXPECT_TRUE(open->verify({}));
    auto list = open->list();
    ASSERT_EQ(list.size(), 6);
    EXPECT_EQ(list[0].path, "/");
    EXPECT_EQ(list[1].path, "/a");
    EXPECT_TRUE(list[1].links == 2 && list[1].size == 5 && (list[1].mode & 07777) == 0640);
    EXPECT_EQ(list[5].target, "a");
  }
}

TEST_F(Packages, SayWhatTheyAreAndWhatTheyLack) {
  ASSERT_TRUE(make({}));
  auto plain = OpenPackage::open(package(), "")->identity();
  EXPECT_FALSE(OpenPackage::open(package(), key_));
  ASSERT_TRUE(make({.key = key_}));
  EXPECT_FALSE(OpenPackage::open(package(), ""));
  EXPECT_FALSE(OpenPackage::open(package(), std::string(64, 'b')));
  auto encrypted = OpenPackage::open(package(), key_)->identity();
  ASSERT_TRUE(make({.key = key_}));
  EXPECT_NE(OpenPackage::open(package(), key_)->identity(), encrypted) << "a salt of its own each time";
  EXPECT_NE(plain, encrypted);
}

TEST_F(Packages, EveryDamagedByteIsNoticed) {
  for (const auto& options : {PackOptions{}, PackOptions{.zstd = true}, PackOptions{.zstd = true, .key = key_}}) {
    ASSERT_TRUE(make(options));
    std::string whole = *read_file(package());
    // All of the header and the index, and the contents here and there. Before the index there may be
    // up to seven bytes that mean nothing.
    uint64_t index;
    std::memcpy(&index, whole.data() + 24, sizeof index);
    for (size_t at = 0; at < whole.size(); at += at < 128 || at >= index ? 1 : at + 997 < index - 8 ? 997
                                                                                                    : index - at) {
      std::string bad = whole;
      bad[at] = static_cast<char>(bad[at] ^ 4);
      ASSERT_TRUE(write_file_durably(package(), bad));
      auto open = OpenPackage::open(package(), options.key);
      EXPECT_TRUE(!open || !open->verify({})) << at;
    }
  }
}
