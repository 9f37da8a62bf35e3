// Layers whose parts can be fetched one by one: what the index says is what the tar says, and an index that lies is found out.
#include "image/chunks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "image/erofs.h"
#include "image/layer_store.h"
#include "image/tree.h"
#include "scratch.h"
#include "tars.h"

namespace caisson::image {
namespace {

std::string noise(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random() & 0x3f);
  return out;
}

/// Files of all sizes, long names (pax), and many headers in a row.
std::string sample_tar() {
  std::vector<std::pair<TarEntry, std::string>> files{{entry("big"), noise(1'700'000, 1)}, {entry("empty"), ""}, {entry(std::string(200, 'd'), EntryType::directory), ""}, {entry(std::string(200, 'd') + "/" + std::string(200, 'f')), noise(513, 2)}};
  for (int i = 0; i < 3000; ++i) files.push_back({entry("link" + std::to_string(i), EntryType::symlink, "big"), ""});
  files.push_back({entry("last"), noise(300'000, 3)});
  return tar_of(files);
}

struct Chunked {
  std::string tar, blob;
  ChunkIndexPlace place;
  [[nodiscard]] std::string index() const { return blob.substr(place.offset, place.size); }
};

Chunked chunked(const Scratch& dir, std::string tar) {
  Chunked out{std::move(tar), {}, {}};
  EXPECT_TRUE(replace_file(dir / "tar", out.tar));
  Fd fd = *open_file(dir / "tar", O_RDONLY);
  StringSink blob;
  auto place = write_chunks(fd.get(), out.tar.size(), blob);
  EXPECT_TRUE(place) << place.error().message;
  out.blob = std::move(blob.text);
  out.place = *place;
  return out;
}

std::string erofs_of(Source& tar, uint64_t size) {
  Tree tree;
  auto added = tree.add_layer(tar);
  EXPECT_TRUE(added) << added.error().message;
  StringSink out;
  EXPECT_TRUE(write_erofs(tree, {size}, out));
  return out.text;
}

TEST(Chunks, AreATarForWhoReadsAll) {
  Scratch dir;
  auto sample = chunked(dir, sample_tar());
  StringSource packed(sample.blob);
  auto plain = decompress(packed);
  StringSink all;
  ASSERT_TRUE(copy(**plain, all));
  EXPECT_EQ(oci::Digest::of(all.text), oci::Digest::of(sample.tar));
  EXPECT_EQ(oci::Digest::of(sample.index()), sample.place.digest);
}

TEST(Chunks, OneByOne) {
  Scratch dir;
  auto sample = chunked(dir, sample_tar());
  std::string index_text = sample.index();
  TextSource packed(index_text);
  auto index = ChunkIndex::open(packed);
  ASSERT_TRUE(index) << index.error().message;
  const ChunkTable& table = index->table();
  EXPECT_EQ(table.tar_size, sample.tar.size());
  EXPECT_GT(table.chunks.size(), 3u);
  std::string all;
  for (size_t i = 0; i < table.chunks.size(); ++i) {
    std::string frame = sample.blob.substr(table.chunks[i].offset, table.chunks[i].size);
    auto chunk = unpack_chunk(frame, table, i);
    ASSERT_TRUE(chunk) << chunk.error().message;
    all += *chunk;
    EXPECT_FALSE(unpack_chunk(frame, table, (i + 1) % table.chunks.size()));
    frame[frame.size() / 2] ^= 1;
    EXPECT_FALSE(unpack_chunk(frame, table, i));
    EXPECT_FALSE(unpack_chunk(frame.substr(0, frame.size() / 2), table, i));
  }
  EXPECT_EQ(oci::Digest::of(all), oci::Digest::of(sample.tar));
}

TEST(Chunks, TheIndexShowsWhatTheTarShows) {
  Scratch dir;
  // Ends with a header, with data, in the middle of everything; more headers in a row than one run takes.
  std::vector<std::pair<TarEntry, std::string>> many;
  for (int i = 0; i < 5000; ++i) many.push_back({entry("folder" + std::to_string(i), EntryType::directory), ""});
  for (const std::string& tar : {sample_tar(), tar_of(many), tar_of({{entry("one"), "1"}}), tar_of({}), sample_tar().substr(0, 1'700'864), tar_of({{entry("one"), "1"}}).substr(0, 1024)}) {
    auto sample = chunked(dir, tar);
    std::string index_text = sample.index();
    EXPECT_LT(index_text.size(), tar.size());
    TextSource packed(index_text);
    auto index = ChunkIndex::open(packed);
    ASSERT_TRUE(index) << index.error().message;
    StringSource whole(tar);
    EXPECT_EQ(oci::Digest::of(erofs_of(*index, tar.size())), oci::Digest::of(erofs_of(whole, tar.size()))) << tar.size();
  }
}

TEST(Chunks, ContentIsNotInTheIndex) {
  Scratch dir;
  auto sample = chunked(dir, tar_of({{entry("one"), noise(5000, 4)}}));
  std::string text = sample.index();
  TextSource packed(text);
  auto index = ChunkIndex::open(packed);
  TarReader tar(*index);
  TarEntry e;
  ASSERT_TRUE(*tar.next(e));
  char buffer[100];
  auto read = tar.read_data(buffer, sizeof buffer);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find("no header where one is wanted"), std::string::npos);
}

TEST(Chunks, DamagedIndexesAreErrors) {
  Scratch dir;
  auto sample = chunked(dir, sample_tar());
  std::string good = sample.index();
  StringSink plain;
  TextSource packed(good);
  ASSERT_TRUE(copy(**decompress(packed), plain));
  auto parse = [](const std::string& text) {
    TextSource source(text);
    auto index = ChunkIndex::open(source);
    if (!index) return false;
    Tree tree;
    return tree.add_layer(*index).has_value();
  };
  EXPECT_TRUE(parse(plain.text));  // uncompressed is fine
  for (size_t cut = 0; cut + 16 < plain.text.size(); cut += 1 + cut / 10) EXPECT_FALSE(parse(plain.text.substr(0, cut))) << cut;
  // Wherever it is damaged, it ends: as an error, or with other names than the tar's (which the diff id tells at the end).
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    std::string bad = plain.text;
    for (int j = 0; j < 3; ++j) bad[random() % (i % 2 == 0 ? 400 : bad.size())] = static_cast<char>(random());
    parse(bad);
  }
  // Sizes out of all bounds.
  for (auto [at, bytes] : {std::pair(17, 4), {21, 8}, {29, 4}}) {
    std::string bad = plain.text;
    for (int i = 0; i < bytes; ++i) bad[static_cast<size_t>(at + i)] = '\xff';
    EXPECT_FALSE(parse(bad)) << at;
  }
}

TEST(Chunks, PlacesThatCannotBe) {
  oci::Descriptor layer;
  layer.size = 1000;
  layer.digest = oci::Digest::of("x");
  EXPECT_EQ(*chunk_index_of(layer), std::nullopt);
  set_chunk_index(layer, {900, 100, oci::Digest::of("i")});
  auto place = chunk_index_of(layer);
  ASSERT_TRUE(place && *place);
  EXPECT_EQ((*place)->offset, 900u);
  EXPECT_EQ((*place)->size, 100u);
  EXPECT_EQ((*place)->digest, oci::Digest::of("i"));
  for (const char* bad : {"", "900", "900:0", "900:101", "1001:1", "-1:5", "18446744073709551615:2", "1:2:3", "a:b", "900:99999999999"}) {
    layer.annotations["io.caisson.chunks.position"] = bad;
    EXPECT_FALSE(chunk_index_of(layer)) << bad;
  }
  layer.annotations["io.caisson.chunks.position"] = "900:100";
  layer.annotations["io.caisson.chunks.digest"] = "sha256:short";
  EXPECT_FALSE(chunk_index_of(layer));
}

TEST(Chunks, LayersAreExpectedAndThenThere) {
  Scratch dir;
  auto sample = chunked(dir, sample_tar());
  LayerStore store(dir / "layers");
  ASSERT_TRUE(make_dirs(dir / "layers"));
  auto diff_id = oci::Digest::of(sample.tar);
  LazySource source{"registry.example", "team/app", false, oci::Digest::of(sample.blob), sample.blob.size()};
  EXPECT_FALSE(store.expect(diff_id, source, "no index"));
  EXPECT_FALSE(store.is_lazy(diff_id.hex()));
  ASSERT_TRUE(store.expect(diff_id, source, sample.index()));
  EXPECT_TRUE(store.is_lazy(diff_id.hex()));
  auto expected = store.expected(diff_id.hex());
  ASSERT_TRUE(expected) << expected.error().message;
  EXPECT_EQ(expected->source.host, "registry.example");
  EXPECT_EQ(expected->source.repository, "team/app");
  EXPECT_FALSE(expected->source.verify_tls);
  EXPECT_EQ(expected->source.blob, source.blob);
  EXPECT_EQ(expected->source.size, source.size);
  FdSource packed(expected->file.get(), "index", expected->index_at, expected->index_size);
  EXPECT_TRUE(ChunkIndex::open(packed));
  // Again, from elsewhere: what is filled stays. Another size is another layer.
  source.host = "mirror.example";
  ASSERT_TRUE(store.expect(diff_id, source, sample.index()));
  EXPECT_EQ(store.expected(diff_id.hex())->source.host, "mirror.example");
  EXPECT_FALSE(store.expect(diff_id, source, chunked(dir, tar_of({{entry("other"), "1"}})).index()));
  // Nobody fills it: it cannot be mounted.
  if (can_mount_index(dir / "layers")) {
    auto lower = store.prepare({{diff_id, source.blob, dir / "nowhere"}});
    ASSERT_TRUE(lower) << lower.error().message;
    EXPECT_TRUE(lower->lazy);
    auto mounted = mount_index(*lower);
    ASSERT_FALSE(mounted);
    EXPECT_NE(mounted.error().message.find("not here as a whole"), std::string::npos);
    EXPECT_TRUE(store.damaged({diff_id.hex()})->empty());
  }
  ASSERT_TRUE(store.collect({{diff_id.hex()}}));
  EXPECT_TRUE(store.is_lazy(diff_id.hex()));
  // A tar that came as a whole meanwhile counts; who stands on the other file still has something to be filled.
  TextSource blob(sample.blob);
  ASSERT_TRUE(store.write_tar(blob, diff_id));
  EXPECT_FALSE(store.is_lazy(diff_id.hex()));
  EXPECT_TRUE(store.expects_any({diff_id.hex()}));
  ASSERT_TRUE(store.complete(diff_id.hex()));
  EXPECT_FALSE(store.expects(diff_id.hex()));
  EXPECT_TRUE(store.damaged({diff_id.hex()})->empty());
  ASSERT_TRUE(store.collect({}));
  // And the other way, filled in its place.
  ASSERT_TRUE(store.expect(diff_id, source, sample.index()));
  ASSERT_TRUE(replace_file(store.lazy_path(diff_id.hex()), sample.tar));
  ASSERT_TRUE(store.complete(diff_id.hex()));
  EXPECT_FALSE(store.is_lazy(diff_id.hex()));
  EXPECT_TRUE(store.has_tar(diff_id));
  EXPECT_TRUE(store.damaged({diff_id.hex()})->empty());
  ASSERT_TRUE(store.collect({}));
  EXPECT_FALSE(store.knows(diff_id.hex()));
}

}  // namespace
}  // namespace caisson::image
