// What is read of an image's tars leaves the page cache again.
#include "image/drop_behind.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "scratch.h"
#include "sys/page_cache.h"

namespace caisson::image {
namespace {

constexpr uint64_t kMega = 1 << 20;

/// A tar of 24 MiB on a disk, none of it in memory.
class DropBehindTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string data(24 * kMega, 'x');
    file_ = *open_file(path_, O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(write_all(file_.get(), data));
    ASSERT_EQ(::fsync(file_.get()), 0);
    // What is read is what was asked for.
    ASSERT_EQ(::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_RANDOM), 0);
    sys::drop_cached(file_.get(), 0, 0);
    ASSERT_EQ(cached(0, 24), 0u);
  }
  void read(uint64_t mega, uint64_t count) const {
    std::string buffer(count * kMega, '\0');
    ASSERT_EQ(::pread(file_.get(), buffer.data(), buffer.size(), static_cast<off_t>(mega * kMega)), static_cast<ssize_t>(buffer.size()));
  }
  /// Bytes.
  [[nodiscard]] uint64_t cached(uint64_t mega, uint64_t count) const { return *sys::cached_pages(file_.get(), mega * kMega, count * kMega) * 4096; }

  Scratch scratch_{"/var/tmp"};
  std::string path_ = scratch_ / "layer.tar";
  Fd file_;
};

TEST_F(DropBehindTest, WhatIsReadGoesAsSoonAsNobodyReadsThereAnyMore) {
  ReadTars tars({path_});
  EXPECT_FALSE(tars.look());
  read(0, 4);
  read(17, 2);
  EXPECT_TRUE(tars.look());
  EXPECT_EQ(cached(0, 24), 6 * kMega) << "it has just been read";
  read(4, 1);
  EXPECT_TRUE(tars.look()) << "somebody reads on in the first part";
  EXPECT_EQ(cached(0, 8), 5 * kMega);
  EXPECT_EQ(cached(16, 8), 0u) << "but nobody in the last";
  EXPECT_FALSE(tars.look());
  EXPECT_EQ(cached(0, 24), 0u);
  EXPECT_FALSE(tars.look());
}

TEST_F(DropBehindTest, PartsThatWereThereAsAWholeStayForAWhile) {
  read(0, 8);
  read(8, 1);
  ReadTars tars({path_});
  EXPECT_TRUE(tars.look());
  EXPECT_FALSE(tars.look());
  EXPECT_EQ(cached(0, 8), 8 * kMega);
  EXPECT_EQ(cached(8, 16), 0u);
  read(10, 1);
  EXPECT_TRUE(tars.look());
  EXPECT_FALSE(tars.look());
  EXPECT_EQ(cached(0, 24), 8 * kMega);
  tars.keep_nothing();
  EXPECT_FALSE(tars.look());
  EXPECT_EQ(cached(0, 24), 0u);
}

/// Dirty pages stay in memory; nobody is to turn round them for ever.
TEST_F(DropBehindTest, WhatCannotGoIsLeftAlone) {
  ReadTars tars({path_});
  std::string data(kMega, 'y');
  ASSERT_EQ(::pwrite(file_.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
  EXPECT_TRUE(tars.look());
  tars.look();
  EXPECT_FALSE(tars.look());
}

TEST_F(DropBehindTest, TarsThatAreNotThereAreNoMatter) {
  ReadTars tars({scratch_ / "none", path_});
  read(0, 1);
  EXPECT_TRUE(tars.look());
  EXPECT_FALSE(tars.look());
  EXPECT_EQ(cached(0, 24), 0u);
}

}  // namespace
}  // namespace caisson::image
