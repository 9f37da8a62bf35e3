#include "image/tree.h"

#include <algorithm>
#include <deque>

#include "base/strings.h"
#include "sys/mount.h"

namespace caisson::image {

namespace {
constexpr int kMostLinks = 40;  // as the kernel's MAXSYMLINKS
constexpr size_t kLongestName = 255;

/// Whether a path has no parts that are empty, "." or "..".
bool is_plain(std::string_view path) {
  for (size_t at = 0, end; at < path.size(); at = end + 1) {
    end = std::min(path.find('/', at), path.size());
    if (auto part = path.substr(at, end - at); part.empty() || part == "." || part == "..") return false;
  }
  return !path.ends_with('/');
}
}  // namespace

bool is_kept_xattr(const std::string& key) { return (key.starts_with("user.") && !key.starts_with(sys::overlay_attribute(""))) || key == "security.capability"; }

Tree::Tree(TreeLimits limits) : limits_(limits) {
  nodes_.emplace_back();
  nodes_[kRoot].implied = true;
}

Result<uint32_t> Tree::make(Node node) {
  if (nodes_.size() >= limits_.nodes) return fail("the image has more than " + std::to_string(limits_.nodes) + " files", EFBIG);
  nodes_.push_back(std::move(node));
  return static_cast<uint32_t>(nodes_.size() - 1);
}

/// Reads a layer's entries into an empty tree.
class Tree::LayerReader {
 public:
  explicit LayerReader(Tree& tree) : tree_(tree), limits_(tree.limits_), nodes_(tree.nodes_) {}

  Result<> run(Source& source) {
    TarReader tar(source);
    TarEntry entry;
    while (TRY(tar.next(entry))) TRY(add(entry), "layer entry \"" + entry.path.substr(0, 256) + "\"");
    return {};
  }

 private:
  [[nodiscard]] Result<> add(const TarEntry& entry);
  [[nodiscard]] Result<> whiteout(uint32_t folder, const std::string& name);
  /// The folder of a path, following links; made where it is not there and `create` is set.
  [[nodiscard]] Result<uint32_t> folder_at(const std::string& path, bool create);
  /// That of an entry: most are in the same one as the entry before.
  [[nodiscard]] Result<uint32_t> parent_of(const std::string& path);

  Tree& tree_;
  const TreeLimits& limits_;
  std::vector<Node>& nodes_;
  uint64_t bytes_ = 0;
  std::string parent_path_;
  uint32_t parent_ = kWhiteout;  ///< none
};

Result<Tree> Tree::of_layer(Source& tar, TreeLimits limits) {
  Tree layer(limits);
  TRY(LayerReader(layer).run(tar));
  return layer;
}

Result<> Tree::add(Tree layer) {
  if (nodes_.size() + layer.nodes_.size() > limits_.nodes) return fail("the image has more than " + std::to_string(limits_.nodes) + " files", EFBIG);
  auto offset = static_cast<uint32_t>(nodes_.size());
  for (auto& node : layer.nodes_) node.layer = layers_;
  nodes_.insert(nodes_.end(), std::move_iterator(layer.nodes_.begin()), std::move_iterator(layer.nodes_.end()));
  merge(kRoot, offset, offset);
  ++layers_;
  return {};
}

Result<uint32_t> Tree::LayerReader::parent_of(const std::string& path) {
  size_t slash = path.rfind('/');
  std::string_view parent = std::string_view(path).substr(0, slash == std::string::npos ? 0 : slash);
  if (parent_ == kWhiteout || parent != parent_path_) {
    parent_path_ = parent;
    parent_ = TRY(folder_at(parent_path_, true));
  }
  return parent_;
}

Result<uint32_t> Tree::LayerReader::folder_at(const std::string& path, bool create) {
  std::vector<uint32_t> way{kRoot};
  std::deque<std::string> parts;
  for (auto& part : split(path, '/', true)) parts.push_back(std::move(part));
  int links = 0;
  while (!parts.empty()) {
    std::string part = std::move(parts.front());
    parts.pop_front();
    if (part == ".") continue;
    if (part == "..") {
      if (way.size() > 1) way.pop_back();
      continue;
    }
    const auto& children = nodes_[way.back()].children;
    auto found = children.find(part);
    if (found == children.end() || found->second == kWhiteout) {
      if (!create) return fail_errno(path, ENOENT);
      if (part.size() > kLongestName) return fail("a name is longer than 255 bytes");
      Node folder;
      folder.implied = true;
      folder.hides = found != children.end();
      uint32_t made = TRY(tree_.make(std::move(folder)));
      nodes_[way.back()].children[part] = made;
      way.push_back(made);
      continue;
    }
    const Node& next = nodes_[found->second];
    if (next.type == EntryType::directory) {
      way.push_back(found->second);
    } else if (next.type == EntryType::symlink) {
      if (++links > kMostLinks) return fail_errno(path, ELOOP);
      if (next.link.starts_with('/')) way.resize(1);
      auto target = split(next.link, '/', true);
      parts.insert(parts.begin(), target.begin(), target.end());
    } else {
      return fail_errno(path, ENOTDIR);
    }
  }
  return way.back();
}

Result<> Tree::LayerReader::whiteout(uint32_t folder, const std::string& name) {
  if (name == ".wh..wh..opq") {
    nodes_[folder].hides = true;
    return {};
  }
  if (name.starts_with(".wh..wh.")) return {};  // AUFS's own bookkeeping
  std::string target = name.substr(4);
  if (target.empty() || target == "." || target == "..") return fail("bad whiteout");
  // It is about the layers below: what this layer itself has there stays.
  auto [child, fresh] = nodes_[folder].children.try_emplace(target, kWhiteout);
  if (!fresh && child->second != kWhiteout) nodes_[child->second].hides = true;
  return {};
}

Result<> Tree::LayerReader::add(const TarEntry& entry) {
  if (!is_plain(entry.path)) return fail("the path leads outside or is not in its simplest form");
  auto adopt = [&](Node& node) {
    node.type = entry.type;
    node.mode = entry.type == EntryType::symlink ? 0777 : entry.mode & 07777;
    node.uid = entry.uid;
    node.gid = entry.gid;
    node.mtime = entry.mtime;
    node.mtime_ns = entry.mtime_ns;
    node.xattrs.clear();
    for (const auto& [key, value] : entry.xattrs)
      if (is_kept_xattr(key) && !(limits_.for_users && key.starts_with("user.overlay."))) node.xattrs.emplace(key, value);
    node.implied = false;
  };
  if (entry.path.empty()) {
    if (entry.type != EntryType::directory) return fail("the root must be a folder");
    adopt(nodes_[kRoot]);
    return {};
  }
  uint32_t parent = TRY(parent_of(entry.path));
  std::string name(base_name(entry.path));
  if (name.starts_with(".wh.")) return whiteout(parent, name);
  if (name.size() > kLongestName) return fail("a name is longer than 255 bytes");

  auto before = nodes_[parent].children.find(name);
  bool there = before != nodes_[parent].children.end();
  if (there && before->second != kWhiteout && entry.type == EntryType::directory && nodes_[before->second].type == EntryType::directory) {
    adopt(nodes_[before->second]);
    return {};
  }
  bool hides = there && (before->second == kWhiteout || nodes_[before->second].hides);
  // What is replaced may be on the way to its folder.
  if (there) parent_ = kWhiteout;
  if (entry.type == EntryType::hard_link) {
    std::string target = clean_path(entry.link);
    uint32_t folder = TRY(folder_at(std::string(dir_name(target)), false), "hard link target");
    auto linked = nodes_[folder].children.find(std::string(base_name(target)));
    if (linked == nodes_[folder].children.end() || linked->second == kWhiteout) return fail_errno("hard link target " + target, ENOENT);
    if (nodes_[linked->second].type == EntryType::directory) return fail("hard link to a folder");
    nodes_[parent].children[name] = linked->second;
    return {};
  }
  if (there) {
    nodes_[parent].children.erase(before);
    parent = TRY(parent_of(entry.path));
  }
  Node node;
  adopt(node);
  node.hides = hides;
  switch (entry.type) {
    case EntryType::file:
      bytes_ += entry.size;
      if (entry.size > limits_.bytes || bytes_ > limits_.bytes) return fail("the layer unpacks to more than " + std::to_string(limits_.bytes) + " bytes", EFBIG);
      node.size = entry.size;
      node.offset = entry.offset;
      break;
    case EntryType::symlink:
      if (entry.link.empty()) return fail_errno("create the link", EINVAL);
      node.link = entry.link;
      break;
    case EntryType::char_device:
    case EntryType::block_device:
      if (entry.major == 0 && entry.minor == 0) return fail("device 0:0 is how overlayfs marks deleted files");
      if (limits_.for_users) {
        node.type = EntryType::file;
        break;
      }
      node.major = entry.major;
      node.minor = entry.minor;
      break;
    default: break;
  }
  uint32_t made = TRY(tree_.make(std::move(node)));
  nodes_[parent].children[name] = made;
  return {};
}

void Tree::merge(uint32_t lower, uint32_t upper, uint32_t offset) {
  // Not recursive: a hostile layer nests as deep as its paths are long. A folder that nothing is below is its own lower one.
  std::vector<std::pair<uint32_t, uint32_t>> left{{lower, upper}};
  while (!left.empty()) {
    auto [below, above] = left.back();
    left.pop_back();
    Node& to = nodes_[below];
    auto children = std::move(nodes_[above].children);
    nodes_[above].children.clear();
    if (below == above) {
      std::erase_if(children, [](const auto& child) { return child.second == kWhiteout; });
      for (auto& [name, id] : children) {
        id += offset;
        if (nodes_[id].type == EntryType::directory) left.emplace_back(id, id);
      }
      to.children = std::move(children);
      to.hides = false;
      continue;
    }
    Node& from = nodes_[above];
    if (from.hides) to.children.clear();
    if (!from.implied) {
      from.hides = false;
      from.children.swap(to.children);
      to = std::move(from);
    }
    while (!children.empty()) {
      auto child = children.extract(children.begin());
      auto known = to.children.lower_bound(child.key());
      bool there = known != to.children.end() && known->first == child.key();
      if (child.mapped() == kWhiteout) {
        if (there) to.children.erase(known);
        continue;
      }
      uint32_t id = child.mapped() += offset;
      bool folder = nodes_[id].type == EntryType::directory;
      if (there && folder && nodes_[known->second].type == EntryType::directory) {
        left.emplace_back(known->second, id);
        continue;
      }
      if (there)
        known->second = id;
      else
        to.children.insert(known, std::move(child));
      if (folder) left.emplace_back(id, id);
    }
  }
}

}  // namespace caisson::image
