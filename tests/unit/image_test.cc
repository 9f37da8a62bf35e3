#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zlib.h>

#include <random>

#include "image/archive.h"
#include "image/gzip.h"
#include "image/layer.h"
#include "image/store.h"
#include "scratch.h"
#include "tars.h"

namespace caisson::image {
namespace {

TEST(Tar, ReadsWhatItWrites) {
  std::string long_name(300, 'n');
  TarEntry fancy = entry("dir/" + long_name);
  fancy.uid = 3'000'000;
  fancy.xattrs["user.note"] = std::string("a\0b", 3);
  fancy.mtime = 1'700'000'000;
  fancy.mtime_ns = 120'000'000;
  std::string text = tar_of({{entry("dir", EntryType::directory), ""}, {fancy, "content"}, {entry("l", EntryType::symlink, std::string(200, 't')), ""}});
  StringSource source(text);
  TarReader reader(source);
  TarEntry e;
  ASSERT_TRUE(*reader.next(e));
  EXPECT_EQ(e.path, "dir");
  ASSERT_TRUE(*reader.next(e));
  EXPECT_EQ(e.path, "dir/" + long_name);
  EXPECT_EQ(e.uid, 3'000'000u);
  EXPECT_EQ(std::pair(e.mtime, e.mtime_ns), std::pair(int64_t{1'700'000'000}, 120'000'000u));
  EXPECT_EQ(e.xattrs["user.note"], std::string("a\0b", 3));
  char buffer[100];
  EXPECT_EQ(std::string(buffer, *reader.read_data(buffer, sizeof buffer)), "content");
  ASSERT_TRUE(*reader.next(e));
  EXPECT_EQ(e.link, std::string(200, 't'));
  EXPECT_FALSE(*reader.next(e));
}

TEST(Tar, TruncationAndDamageAreErrors) {
  std::string text = tar_of({{entry("a"), std::string(2000, 'x')}});
  for (size_t cut : {size_t{100}, size_t{600}, size_t{1500}}) {
    StringSource source(text.substr(0, cut));
    TarReader reader(source);
    TarEntry e;
    bool failed = false;
    for (auto next = reader.next(e); !failed; next = reader.next(e)) {
      if (!next) failed = true;
      else if (!*next) break;
    }
    EXPECT_TRUE(failed) << cut;
  }
  text[0] ^= 1;
  StringSource source(text);
  TarReader reader(source);
  TarEntry e;
  auto damaged = reader.next(e);
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().message.find("damaged header at byte 0"), std::string::npos);
}

/// What gzip data holds, read in pieces of 1000 bytes.
Result<std::string> gunzip(const std::string& packed) {
  StringSource source(packed);
  auto plain = TRY(decompress(source));
  StringSink out;
  TRY(copy(*plain, out));
  return out.text;
}

std::string gzip(const std::string& data, int level = 1) {
  StringSink packed;
  GzipSink gzip(packed, level);
  EXPECT_TRUE(gzip.write(data));
  EXPECT_TRUE(gzip.finish());
  return packed.text;
}

TEST(Gzip, AnyContentAtAnyLevel) {
  std::mt19937 random(1);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same data each time
  std::string noise(300'000, '\0'), words;
  for (char& c : noise) c = static_cast<char>(random());
  std::string zeros;
  zeros.resize(20'000'001);
  while (words.size() < 3'000'000) words += std::to_string(random() % 5000) + " ";
  for (const std::string& data : {std::string(), std::string("a"), std::string(65536, 'b'), zeros, noise, words, words + std::string(1'000'000, 'x') + noise})
    for (int level : {0, 1, 6, 9}) {
      std::string packed = gzip(data, level);
      EXPECT_EQ(*gunzip(packed), data);
      EXPECT_EQ(*gunzip(packed + packed + std::string(700, '\0')), data + data) << "members, and padding behind them";
      for (size_t cut : {packed.size() / 2, packed.size() - 9, packed.size() - 1})
        EXPECT_FALSE(gunzip(packed.substr(0, cut))) << data.size() << " bytes, cut at " << cut << " of " << packed.size();
    }
}

/// By zlib, which has no part in packing it; nothing but one member may be there.
std::string inflated(const std::string& packed, size_t size) {
  z_stream z = {};
  EXPECT_EQ(inflateInit2(&z, 15 + 16), Z_OK);
  std::string out(size + 1, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  z.avail_in = static_cast<uInt>(packed.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(inflate(&z, Z_FINISH), Z_STREAM_END);
  EXPECT_EQ(z.avail_in, 0u);
  out.resize(z.total_out);
  inflateEnd(&z);
  return out;
}

TEST(ParallelGzip, AnyContentInAnyPieces) {
  std::mt19937 random(1);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same data each time
  constexpr size_t kBlock = 1u << 20;
  std::string noise(5 * kBlock + 77, '\0'), words;
  for (char& c : noise) c = static_cast<char>(random());
  while (words.size() < 9 * kBlock) words += std::to_string(random() % 5000) + " ";
  for (size_t size : {size_t{0}, size_t{1}, kBlock - 1, kBlock, kBlock + 1, 2 * kBlock, 5 * kBlock + 77})
    for (const std::string& data : {std::string(size, 'x'), noise.substr(0, size), words.substr(0, size)}) {
      std::string first;
      for (size_t piece : {size_t{4096}, size_t{131072}, size_t{3'000'001}}) {
        StringSink packed;
        ParallelGzipSink gzip(packed);
        for (size_t at = 0; at < data.size(); at += piece) ASSERT_TRUE(gzip.write(std::string_view(data).substr(at, piece)));
        ASSERT_TRUE(gzip.finish());
        EXPECT_EQ(inflated(packed.text, size), data);
        EXPECT_EQ(*gunzip(packed.text), data);
        EXPECT_LT(packed.text.size(), size + size / 1000 + 200) << "what cannot be packed is stored";
        if (first.empty()) first = packed.text;
        EXPECT_EQ(packed.text, first) << "the same, however it came";
      }
    }
}

TEST(ParallelGzip, AnErrorOfTheSinkEndsIt) {
  struct Full : Sink {
    Result<> write(std::string_view) override { return size_++ > 1 ? Result<>(fail("no room")) : Result<>(); }
    int size_ = 0;
  } full;
  ParallelGzipSink gzip(full);
  Result<> done;
  for (int i = 0; i < 200 && done; ++i) done = gzip.write(std::string(1u << 20, 'x'));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "no room");
}

TEST(Gzip, EveryCutAndManyFlippedBitsAreFound) {
  std::string data;
  for (int i = 0; i < 400; ++i) data += std::to_string(i * i);
  std::string packed = gzip(data);
  for (size_t cut = 4; cut < packed.size(); ++cut) EXPECT_FALSE(gunzip(packed.substr(0, cut))) << cut;
  // But for the length at the end, which the check sum before it makes needless, and the last byte of data, which has bits to spare.
  for (size_t at = 10; at < packed.size() - 4; ++at) {
    if (at == packed.size() - 9) continue;
    std::string damaged = packed;
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << at % 8);
    EXPECT_NE(gunzip(damaged).value_or(""), data) << at;
  }
}

TEST(Gzip, RoundTripAndSeveralMembers) {
  StringSink packed;
  for (const char* part : {"hello ", "world"}) {
    GzipSink gzip(packed);
    ASSERT_TRUE(gzip.write(part));
    ASSERT_TRUE(gzip.finish());
  }
  StringSource source(packed.text);
  auto plain = decompress(source);
  ASSERT_TRUE(plain);
  StringSink out;
  ASSERT_TRUE(copy(**plain, out));
  EXPECT_EQ(out.text, "hello world");
  StringSource cut(packed.text.substr(0, packed.text.size() - 4));
  auto again = decompress(cut);
  ASSERT_TRUE(again);
  EXPECT_FALSE(copy(**again, out)) << "a truncated stream must not look whole";
}

/// Unpacks next to a folder that must stay as it is.
struct Attack {
  const char* name;
  std::vector<std::pair<TarEntry, std::string>> entries;
};
class HostileLayers : public testing::TestWithParam<Attack> {};
TEST_P(HostileLayers, LeaveTheNeighboursAlone) {
  Scratch dir;
  ASSERT_TRUE(make_dirs(dir / "canary"));
  ASSERT_TRUE(make_dirs(dir / "layer"));
  ASSERT_TRUE(replace_file(dir / "canary/file", "untouched", 0600));
  struct stat before, after;
  ASSERT_EQ(::stat((dir / "canary/file").c_str(), &before), 0);
  StringSource source(tar_of(GetParam().entries));
  (void)unpack_layer(source, dir / "layer");  // refused or kept inside: both are right
  EXPECT_EQ(*read_file(dir / "canary/file"), "untouched");
  ASSERT_EQ(::stat((dir / "canary/file").c_str(), &after), 0);
  EXPECT_EQ(before.st_mode, after.st_mode);
  EXPECT_EQ(after.st_nlink, 1u) << "a hard link leads out";
  EXPECT_EQ(list_dir(dir / "canary")->size(), 1u);
  EXPECT_EQ(list_dir(dir.path())->size(), 2u);
}
INSTANTIATE_TEST_SUITE_P(
    All, HostileLayers,
    testing::Values(Attack{"DotDot", {{entry("../canary/file"), "evil"}}}, Attack{"DotDotInside", {{entry("a/../../canary/file"), "evil"}}}, Attack{"Absolute", {{entry("/../canary/file"), "evil"}}},
                    Attack{"LinkThenFile", {{entry("out", EntryType::symlink, "../canary"), ""}, {entry("out/file"), "evil"}}},
                    Attack{"AbsoluteLinkThenFile", {{entry("out", EntryType::symlink, "/tmp"), ""}, {entry("out/caisson-evil"), "evil"}}},
                    Attack{"LinkItself", {{entry("f", EntryType::symlink, "../canary/file"), ""}, {entry("f"), "evil"}}},
                    Attack{"HardLinkOut", {{entry("h", EntryType::hard_link, "../canary/file"), ""}, {entry("h"), "evil"}}},
                    Attack{"HardLinkThroughLink", {{entry("l", EntryType::symlink, "../canary"), ""}, {entry("h", EntryType::hard_link, "l/file"), ""}}},
                    Attack{"WhiteoutOfParent", {{entry(".wh..."), ""}}}, Attack{"WhiteoutThroughLink", {{entry("l", EntryType::symlink, "../canary"), ""}, {entry("l/.wh.file"), ""}}},
                    Attack{"OpaqueThroughLink", {{entry("l", EntryType::symlink, "../canary"), ""}, {entry("l/.wh..wh..opq"), ""}}},
                    Attack{"FolderOverLink", {{entry("l", EntryType::symlink, "../canary"), ""}, {entry("l", EntryType::directory), ""}, {entry("l/file"), "evil"}}},
                    Attack{"Dot", {{entry(".", EntryType::symlink, "../canary"), ""}, {entry("file"), "evil"}}}),
    [](const auto& info) { return info.param.name; });

TEST(Layer, NeedsRoot_WhiteoutsBecomeOverlayfsForm) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  Scratch dir;
  StringSource source(tar_of({{entry("d", EntryType::directory), ""}, {entry("d/.wh.gone"), ""}, {entry("o", EntryType::directory), ""}, {entry("o/.wh..wh..opq"), ""}}));
  ASSERT_TRUE(unpack_layer(source, dir.path()));
  struct stat st;
  ASSERT_EQ(::lstat((dir / "d/gone").c_str(), &st), 0);
  EXPECT_TRUE(S_ISCHR(st.st_mode) && st.st_rdev == 0);
  char value[2];
  EXPECT_EQ(::getxattr((dir / "o").c_str(), "trusted.overlay.opaque", value, 1), 1);
}

TEST(Layer, OverlayAttributesOfAnImageAreDropped) {
  Scratch dir;
  TarEntry e = entry("f");
  e.xattrs["trusted.overlay.redirect"] = "/etc";
  e.xattrs["security.selinux"] = "x";
  StringSource source(tar_of({{e, "x"}}));
  ASSERT_TRUE(unpack_layer(source, dir.path()));
  char value[16];
  EXPECT_EQ(::getxattr((dir / "f").c_str(), "trusted.overlay.redirect", value, sizeof value), -1);
}

TEST(Layer, SizeIsBounded) {
  Scratch dir;
  StringSource source(tar_of({{entry("f"), std::string(5000, 'x')}}));
  auto refused = unpack_layer(source, dir.path(), {.bytes = 4000});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EFBIG);
}

class StoreTest : public testing::Test {
 protected:
  Result<Image> import_one(const std::string& name, const std::string& content = "x") {
    std::string tar = tar_of({{entry("file"), content}});
    EXPECT_TRUE(replace_file(dir_ / "root.tar", tar));
    auto store = Store::open(dir_ / "store");
    return import_root(*store, dir_ / "root.tar", name, {});
  }
  size_t blobs() { return list_dir(dir_ / "store/images/blobs/sha256")->size(); }
  Scratch dir_;
};

TEST_F(StoreTest, FindsByNameAndId) {
  auto image = import_one("web:1.0");
  ASSERT_TRUE(image) << image.error().message;
  auto store = Store::open(dir_ / "store");
  EXPECT_TRUE(store->find("web:1.0"));
  EXPECT_TRUE(store->find(image->id().hex().substr(0, 12)));
  auto missing = store->find("web");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ENOENT);
}

TEST_F(StoreTest, NameMovesAndOldImageStaysUntagged) {
  auto one = import_one("web", "1"), two = import_one("web", "2");
  ASSERT_TRUE(one && two);
  auto store = Store::open(dir_ / "store");
  EXPECT_EQ(store->find("web")->id(), two->id());
  auto old = store->find(one->id().hex());
  ASSERT_TRUE(old);
  EXPECT_TRUE(old->names.empty());
}

TEST_F(StoreTest, RemovedImagesBlobsAreCollected) {
  auto image = import_one("web");
  ASSERT_TRUE(image);
  auto store = Store::open(dir_ / "store");
  ASSERT_TRUE(store->prepare(*image));
  ASSERT_TRUE(store->remove("web", false));
  ASSERT_TRUE(store->collect({}));
  EXPECT_EQ(blobs(), 0u);
  EXPECT_EQ(list_dir(dir_ / "store/layers")->size(), 1u) << "only the lock is left";
}

TEST_F(StoreTest, LayersInUseAreKept) {
  auto image = import_one("web");
  auto store = Store::open(dir_ / "store");
  ASSERT_TRUE(store->prepare(*image));
  ASSERT_TRUE(store->remove("web", false));
  std::vector<std::string> stack{image->config.diff_ids[0].hex()};
  ASSERT_TRUE(store->collect({stack}));
  EXPECT_TRUE(store->layers().find(stack));
}

TEST_F(StoreTest, DamagedLayerIsFoundBeforeItIsUsed) {
  auto image = import_one("web");
  auto store = Store::open(dir_ / "store");
  std::string blob = store->blob_path(image->manifest.layers[0].digest);
  std::string data = *read_file(blob);
  data[data.size() - 6] ^= 1;
  ASSERT_TRUE(replace_file(blob, data));
  auto unpacked = store->prepare(*image);
  ASSERT_FALSE(unpacked);
  EXPECT_EQ(list_dir(dir_ / "store/layers")->size(), 1u) << "nothing half-made is left";
}

TEST_F(StoreTest, SavedArchiveLoadsElsewhereUnchanged) {
  auto image = import_one("web:2");
  auto store = Store::open(dir_ / "store");
  for (auto format : {ArchiveFormat::oci, ArchiveFormat::docker}) {
    StringSink out;
    ASSERT_TRUE(save(*store, {"web:2"}, format, out));
    ASSERT_TRUE(replace_file(dir_ / "saved.tar", out.text));
    Scratch elsewhere;
    auto other = Store::open(elsewhere / "store");
    auto names = load(*other, dir_ / "saved.tar");
    ASSERT_TRUE(names) << names.error().message;
    EXPECT_EQ(*names, std::vector<std::string>{"web:2"});
    EXPECT_EQ(other->find("web:2")->id(), image->id());
  }
}

TEST_F(StoreTest, BrokenArchivesLeaveTheStoreAsItWas) {
  auto image = import_one("web");
  auto store = Store::open(dir_ / "store");
  StringSink out;
  ASSERT_TRUE(save(*store, {"web"}, ArchiveFormat::oci, out));
  Scratch elsewhere;
  auto other = Store::open(elsewhere / "store");
  std::string index = *read_file(elsewhere / "store/images/index.json");
  auto attempt = [&](const std::string& data) {
    EXPECT_TRUE(replace_file(dir_ / "broken.tar", data));
    auto loaded = load(*other, dir_ / "broken.tar");
    EXPECT_FALSE(loaded);
    EXPECT_EQ(*read_file(elsewhere / "store/images/index.json"), index);
    EXPECT_EQ(list_dir(elsewhere / "store/images/blobs/sha256")->size(), 0u);
    EXPECT_EQ(list_dir(elsewhere / "store/images/blobs")->size(), 1u);
    return loaded ? "" : loaded.error().message;
  };
  attempt("not a tar at all");
  attempt(out.text.substr(0, out.text.size() / 2));
  std::string flipped = out.text;
  size_t layer = flipped.find("\x1f\x8b");
  ASSERT_NE(layer, std::string::npos);
  flipped[layer + 20] ^= 1;
  EXPECT_NE(attempt(flipped).find("digest mismatch"), std::string::npos);
}

}  // namespace
}  // namespace caisson::image
