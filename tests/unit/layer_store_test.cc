// The forms that layers take. What an image shows must be the same in each: the contract.
#include "image/layer_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <array>
#include <random>

#include "engine/rootfs.h"
#include "image/erofs.h"
#include "image/tree.h"
#include "scratch.h"
#include "sys/in_root.h"
#include "tars.h"

namespace caisson::image {
namespace {

using Form = LayerStore::Form;

/// What an image's layers show, as text: a line for each file.
void describe(const std::string& folder, const std::string& prefix, std::vector<std::string>& out, std::map<ino_t, std::string>& links) {
  auto names = list_dir(folder);
  ASSERT_TRUE(names) << folder;
  std::sort(names->begin(), names->end());
  for (const auto& name : *names) {
    std::string path = folder + "/" + name, shown = prefix + "/" + name;
    struct stat st;
    ASSERT_EQ(::lstat(path.c_str(), &st), 0) << path;
    std::string line = shown + " " + std::to_string(st.st_mode) + " " + std::to_string(st.st_uid) + ":" + std::to_string(st.st_gid);
    if (!S_ISDIR(st.st_mode)) line += " t" + std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec) + " n" + std::to_string(st.st_nlink);
    if (S_ISREG(st.st_mode)) line += " =" + oci::Digest::of(*read_file(path, 1u << 30)).hex() + " " + std::to_string(st.st_size);
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) line += " " + std::to_string(major(st.st_rdev)) + "," + std::to_string(minor(st.st_rdev));
    if (S_ISLNK(st.st_mode)) {
      std::string target(5000, '\0');
      target.resize(static_cast<size_t>(std::max<ssize_t>(0, ::readlink(path.c_str(), target.data(), target.size()))));
      line += " ->" + target;
    }
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) line += " same as " + links.try_emplace(st.st_ino, shown).first->second;
    char value[70000];
    for (const char* key : {"user.note", "user.long", "user.second", "security.capability", "trusted.overlay.redirect"})
      if (ssize_t n = ::lgetxattr(path.c_str(), key, value, sizeof value); n >= 0) line += std::string(" ") + key + "=" + oci::Digest::of(std::string_view(value, static_cast<size_t>(n))).hex().substr(0, 8);
    out.push_back(line);
    if (S_ISDIR(st.st_mode)) describe(path, shown, out, links);
  }
}

class Layers : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: mounts";
    if (GetParam() == Form::any && !can_mount_index(dir_.path())) GTEST_SKIP() << "needs a kernel that mounts EROFS from files";
    ASSERT_TRUE(make_dirs(dir_ / "layers"));
  }

  Layer layer(const std::string& tar) {
    oci::Digest digest = oci::Digest::of(tar);
    std::string path = dir_ / digest.hex();
    EXPECT_TRUE(replace_file(path, tar));
    return {digest, digest, path};
  }

  /// What the layers together show.
  std::vector<std::string> shown(const std::vector<std::string>& tars) {
    std::vector<Layer> layers;
    for (const auto& tar : tars) layers.push_back(layer(tar));
    auto lower = store_.prepare(layers, GetParam());
    EXPECT_TRUE(lower) << lower.error().message;
    if (!lower) return {"failed"};
    EXPECT_EQ(lower->index.empty(), GetParam() == Form::folders);
    auto view = LayersView::open(*lower);
    EXPECT_TRUE(view) << view.error().message;
    EXPECT_TRUE(make_dirs(dir_ / "c/upper") && make_dirs(dir_ / "c/work"));
    auto root = engine::mount_rootfs({view->folders(), {}, {}}, {dir_ / "c"});
    EXPECT_TRUE(root) << root.error().message;
    std::vector<std::string> out;
    std::map<ino_t, std::string> links;
    describe(sys::fd_path(root->get()), "", out, links);
    return out;
  }

  /// Names alone.
  std::vector<std::string> names(const std::vector<std::string>& tars) {
    std::vector<std::string> out;
    for (const auto& line : shown(tars)) out.push_back(line.substr(0, line.find(' ')));
    return out;
  }

  Scratch dir_;
  LayerStore store_{dir_ / "layers"};
};
INSTANTIATE_TEST_SUITE_P(Forms, Layers, testing::Values(Form::folders, Form::any), [](const auto& info) { return info.param == Form::any ? "index" : "folders"; });

std::pair<TarEntry, std::string> file(const std::string& path, const std::string& content) { return {entry(path), content}; }
std::pair<TarEntry, std::string> folder(const std::string& path) { return {entry(path, EntryType::directory), ""}; }
using Names = std::vector<std::string>;

TEST_P(Layers, ShowWhatTheTarSays) {
  auto owned = entry("owned");
  owned.uid = 70000;
  owned.gid = 4'000'000'000;
  owned.mode = 06751;
  owned.mtime = 1'234'567'890;
  owned.mtime_ns = 123'456'789;
  auto noted = entry("noted");
  noted.xattrs = {{"user.note", "hello"}, {"user.second", ""}, {"security.capability", std::string("\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)}, {"trusted.overlay.redirect", "/etc"}};
  auto long_noted = entry("long", EntryType::directory);
  long_noted.xattrs = {{"user.long", std::string(3000, 'x')}};
  auto device = entry("device", EntryType::char_device);
  device.major = 300;
  device.minor = 70000;
  auto disk = entry("disk", EntryType::block_device);
  disk.major = 8;
  disk.minor = 1;
  auto old = entry("old", EntryType::symlink, "nowhere");
  old.mtime = 77;
  auto lines = shown({tar_of({{owned, "x"}, {noted, std::string(100'000, 'n')}, {long_noted, ""}, {entry("long/link", EntryType::symlink, std::string(4000, 'l')), ""}, {device, ""}, {disk, ""}, {old, ""}, {entry("pipe", EntryType::fifo), ""}, file("empty", ""), file("block", std::string(512, 'b')), file("more", std::string(513, 'b')), {entry("same", EntryType::hard_link, "more"), ""}})});
  std::string all;
  for (const auto& line : lines) all += line + "\n";
  EXPECT_NE(all.find("/owned " + std::to_string(S_IFREG | 06751) + " 70000:4000000000 t1234567890.123456789 n1"), std::string::npos) << all;
  EXPECT_NE(all.find("/noted"), std::string::npos);
  EXPECT_NE(all.find("user.note=" + oci::Digest::of("hello").hex().substr(0, 8)), std::string::npos) << all;
  EXPECT_NE(all.find("user.second="), std::string::npos) << all;
  EXPECT_NE(all.find("security.capability="), std::string::npos) << all;
  EXPECT_EQ(all.find("trusted.overlay.redirect"), std::string::npos) << all;
  EXPECT_NE(all.find("user.long=" + oci::Digest::of(std::string(3000, 'x')).hex().substr(0, 8)), std::string::npos) << all;
  EXPECT_NE(all.find("->" + std::string(4000, 'l')), std::string::npos);
  EXPECT_NE(all.find(" 300,70000"), std::string::npos) << all;
  EXPECT_NE(all.find(" 8,1"), std::string::npos) << all;
  EXPECT_NE(all.find("/old " + std::to_string(S_IFLNK | 0777) + " 0:0 t77.0"), std::string::npos) << all;
  EXPECT_NE(all.find("same as /more"), std::string::npos) << all;
  EXPECT_NE(all.find(" =" + oci::Digest::of(std::string(100'000, 'n')).hex() + " 100000"), std::string::npos) << all;
}

TEST_P(Layers, HigherOnesReplaceAndRemove) {
  std::string below = tar_of({folder("a"), file("a/kept", "1"), file("a/gone", "2"), file("a/new", "3"), folder("whole"), file("whole/old", "4"), folder("again"), file("again/old", "5"), file("becomes-folder", "6"), folder("becomes-file"), file("becomes-file/x", "7")});
  std::string above = tar_of({file("a/.wh.gone", ""), file("a/new", "33"), folder("whole"), file("whole/.wh..wh..opq", ""), file("whole/fresh", "8"), file(".wh.again", ""), folder("again"), file("again/fresh", "9"), folder("becomes-folder"), file("becomes-folder/y", "10"), file("becomes-file", "11")});
  EXPECT_EQ(names({below, above}), (Names{"/a", "/a/kept", "/a/new", "/again", "/again/fresh", "/becomes-file", "/becomes-folder", "/becomes-folder/y", "/whole", "/whole/fresh"}));
}

TEST_P(Layers, WhiteoutsAreAboutLowerLayersOnly) {
  std::string below = tar_of({folder("d"), file("d/old", "1"), file("f", "2"), folder("e"), file("e/old", "3")});
  std::string above = tar_of({folder("d"), file("d/new", "4"), file(".wh.d", ""), file("f", "5"), file(".wh.f", ""), file("e/.wh.old", ""), file("e/new", "6"), file(".wh.never-there", "")});
  EXPECT_EQ(names({below, above}), (Names{"/d", "/d/new", "/e", "/e/new", "/f"}));
  EXPECT_EQ(names({below, above, tar_of({file(".wh.d", ""), file(".wh.e", "")})}), (Names{"/f"}));
}

TEST_P(Layers, PathsAreFollowedInTheirOwnLayer) {
  std::string below = tar_of({folder("usr"), folder("usr/lib"), file("usr/lib/a", "1"), {entry("lib", EntryType::symlink, "usr/lib"), ""}, file("lib/b", "2"), {entry("abs", EntryType::symlink, "/usr"), ""}, file("abs/lib/c", "3"), {entry("up", EntryType::symlink, "../../usr/lib"), ""}, file("up/d", "4")});
  EXPECT_EQ(names({below}), (Names{"/abs", "/lib", "/up", "/usr", "/usr/lib", "/usr/lib/a", "/usr/lib/b", "/usr/lib/c", "/usr/lib/d"}));
}

TEST_P(Layers, LargeFoldersAndLongNames) {
  std::vector<std::pair<TarEntry, std::string>> many{folder("many")};
  Names expected{"/many"};
  for (int i = 0; i < 3000; ++i) {
    std::string name = "many/" + std::string(static_cast<size_t>(1 + i % 250), static_cast<char>('a' + i % 26)) + std::to_string(i);
    many.push_back(file(name, std::to_string(i)));
    expected.push_back("/" + name);
  }
  for (const char* odd : {"!", "-", ".hidden", "..more", " ", "\xff\xfe", "\x01"}) {
    many.push_back(file("many/" + std::string(odd), odd));
    expected.push_back("/many/" + std::string(odd));
  }
  std::sort(expected.begin(), expected.end());
  auto got = names({tar_of(many)});
  // A name with a space ends there in what describe() writes.
  std::replace(expected.begin(), expected.end(), std::string("/many/ "), std::string("/many/"));
  EXPECT_EQ(got, expected);
}

TEST_P(Layers, RefuseWhatUnpackingRefuses) {
  auto device = entry("d", EntryType::char_device);
  auto below_file = tar_of({file("f", ""), file("f/x", "")});
  for (const std::string& tar : {tar_of({file("../x", "")}), tar_of({file("a/../../x", "")}), tar_of({{device, ""}}), tar_of({file(std::string(256, 'n'), "")}), tar_of({{entry("h", EntryType::hard_link, "no"), ""}}), tar_of({folder("d"), {entry("h", EntryType::hard_link, "d"), ""}}), tar_of({file(".wh..", "")}),
                                 tar_of({{entry("a", EntryType::symlink, "b"), ""}, {entry("b", EntryType::symlink, "a"), ""}, file("a/x", "")}), below_file, below_file.substr(0, 700)}) {
    auto refused = store_.prepare({layer(tar)}, GetParam());
    EXPECT_FALSE(refused) << tar.substr(0, 40);
  }
  for (const auto& left : list_dir(dir_ / "layers").value_or(Names{"?"})) EXPECT_TRUE(left == "lock" || left.ends_with(".tar")) << left;
}

TEST(Tree, ForAMountOfAUserHasNoDevicesAndNoMarks) {
  auto device = entry("disk", EntryType::block_device);
  device.major = 254;
  auto marked = entry("marked", EntryType::directory);
  marked.xattrs = {{"user.overlay.redirect", "/etc"}, {"user.note", "kept"}, {"trusted.overlay.opaque", "y"}};
  StringSource tar(tar_of({{device, ""}, {entry("link", EntryType::hard_link, "disk"), ""}, {marked, ""}}));
  Tree tree({.for_users = true});
  ASSERT_TRUE(tree.add_layer(tar));
  auto named = [&](const char* name) -> const Node& { return tree.node(tree.node(Tree::kRoot).children.at(name)); };
  EXPECT_EQ(named("disk").type, EntryType::file);
  EXPECT_EQ(named("disk").size, 0u);
  EXPECT_EQ(&named("link"), &named("disk"));
  EXPECT_EQ(named("marked").xattrs, (std::map<std::string, std::string>{{"user.note", "kept"}}));
}

TEST_P(Layers, AreMadeOnceAndCollected) {
  Layer one = layer(tar_of({file("one", "1")})), two = layer(tar_of({file("two", "2")}));
  auto first = store_.prepare({one, two}, GetParam());
  ASSERT_TRUE(first);
  std::string made = first->index.empty() ? first->folders[0] : first->index;
  struct stat before, after;
  ASSERT_EQ(::stat(made.c_str(), &before), 0);
  ::unlink(one.path.c_str());
  ASSERT_TRUE(store_.prepare({one, two}, GetParam())) << "the blobs are not asked again";
  ASSERT_EQ(::stat(made.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  ASSERT_TRUE(store_.collect({{one.diff_id.hex(), two.diff_id.hex()}}));
  EXPECT_TRUE(store_.find({one.diff_id.hex(), two.diff_id.hex()}, GetParam()));
  ASSERT_TRUE(store_.collect({}));
  EXPECT_EQ(*list_dir(dir_ / "layers"), Names{"lock"});
}

TEST_P(Layers, WrongContentIsFound) {
  Layer honest = layer(tar_of({file("f", "1")}));
  // Compressed, so that it is no link to what was checked before.
  StringSink packed;
  GzipSink gzip(packed);
  ASSERT_TRUE(gzip.write(tar_of({file("f", "2")})) && gzip.finish());
  Layer lying{honest.diff_id, oci::Digest::of(packed.text), dir_ / "lying"};
  ASSERT_TRUE(replace_file(lying.path, packed.text));
  auto refused = store_.prepare({lying}, GetParam());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("diff id"), std::string::npos) << refused.error().message;
  EXPECT_EQ(*list_dir(dir_ / "layers"), Names{"lock"});
}

TEST_P(Layers, EntriesAfterTheOneThatReplacesTheirFolder) {
  EXPECT_EQ(names({tar_of({folder("c"), file("a/b/one", "1"), {entry("a", EntryType::symlink, "c"), ""}, file("a/b/two", "2"), file("a/b/three", "3")})}), (Names{"/a", "/c", "/c/b", "/c/b/three", "/c/b/two"}));
  // The way leads through what is replaced.
  EXPECT_EQ(names({tar_of({{entry("l", EntryType::symlink, "."), ""}, file("l/one", "1"), folder("l/l"), file("l/two", "2")})}), (Names{"/l", "/l/l", "/l/two", "/one"}));
}

TEST_P(Layers, RandomStacksShowWhatAModelSays) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);                    // NOLINT(cert-msc32-c,cert-msc51-cpp): the same stacks each time
    std::map<std::string, std::string> expected;  // paths and content
    std::vector<std::string> tars;
    for (int l = 0; l < 4; ++l) {
      std::vector<std::pair<TarEntry, std::string>> entries;
      std::map<std::string, std::string> mine;
      std::set<std::string> removed;
      for (int i = 0; i < 12; ++i) {
        std::string path = std::string(1, static_cast<char>('a' + random() % 3)) + "/" + static_cast<char>('a' + random() % 3) + "/f" + std::to_string(random() % 4);
        // Of what is there, as tools that write layers do: overlayfs lists a whiteout in a folder that only one layer has.
        std::string what;
        if (random() % 3 == 0 && !expected.empty()) {
          what = std::next(expected.begin(), static_cast<long>(random() % expected.size()))->first;
          what = what.substr(0, std::array<size_t, 3>{1, 3, 6}[random() % 3]);
        }
        auto related = [&](const std::string& other) { return other == what || other.starts_with(what + "/") || what.starts_with(other + "/"); };
        if (!what.empty() && std::none_of(removed.begin(), removed.end(), related)) {
          entries.push_back(file((what.size() == 1 ? "" : what.substr(0, what.rfind('/') + 1)) + ".wh." + what.substr(what.rfind('/') + 1), ""));
          removed.insert(what);
        } else {
          std::string content = "entry " + std::to_string(i) + " of layer " + std::to_string(l);
          entries.push_back(file(path, content));
          mine[path] = content;
        }
      }
      for (const auto& gone : removed) std::erase_if(expected, [&](const auto& e) { return e.first == gone || e.first.starts_with(gone + "/"); });
      for (const auto& [path, content] : mine) expected[path] = content;
      tars.push_back(tar_of(entries));
    }
    Names files, wanted;
    for (const auto& line : shown(tars))
      if (size_t content = line.find(" ="); content != std::string::npos) files.push_back(line.substr(1, line.find(' ') - 1) + line.substr(content, 66));
    for (const auto& [path, content] : expected) wanted.push_back(path + " =" + oci::Digest::of(content).hex());
    EXPECT_EQ(files, wanted) << "seed " << seed;
  }
}

TEST(LayersOfAnotherKernel, AreUnpackedFromTheirTars) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: mounts";
  Scratch dir;
  ASSERT_TRUE(make_dirs(dir / "layers"));
  LayerStore store(dir / "layers");
  std::string tar = tar_of({file("f", "1")});
  oci::Digest digest = oci::Digest::of(tar);
  ASSERT_TRUE(replace_file(dir / "blob", tar));
  ASSERT_TRUE(store.prepare({{digest, digest, dir / "blob"}}));
  ASSERT_TRUE(replace_file(dir / ("layers/" + digest.hex() + ".tar"), tar));
  ::unlink((dir / "blob").c_str());
  auto folders = store.prepare({{digest, {}, {}}}, Form::folders);
  ASSERT_TRUE(folders) << folders.error().message;
  EXPECT_EQ(*read_file(folders->folders[0] + "/f", 10), "1");
}

TEST(ErofsWriter, TheSameTreeGivesTheSameBytes) {
  std::string tar = tar_of({folder("d"), file("d/f", "1"), file("a", "2")});
  std::string first;
  for (int i = 0; i < 2; ++i) {
    Tree tree;
    StringSource source(tar);
    ASSERT_TRUE(tree.add_layer(source));
    StringSink out;
    ASSERT_TRUE(write_erofs(tree, {tar.size()}, out));
    if (i == 0) first = out.text;
    EXPECT_EQ(out.text, first);
  }
}

TEST(TreeLimits, Hold) {
  Tree few({.nodes = 5});
  StringSource many(tar_of({file("1", ""), file("2", ""), file("3", ""), file("4", ""), file("5", "")}));
  auto refused = few.add_layer(many);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("more than 5 files"), std::string::npos);
  Tree small({.bytes = 4000});
  StringSource large(tar_of({file("1", std::string(3000, 'x')), file("2", std::string(3000, 'x'))}));
  EXPECT_FALSE(small.add_layer(large));
}

}  // namespace
}  // namespace caisson::image
