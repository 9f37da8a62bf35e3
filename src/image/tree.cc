#include "image/tree.h"

#include <algorithm>

#include "base/strings.h"
#include "sys/mount.h"

namespace caisson::image {

namespace {
constexpr int kMostLinks = 40;  // as the kernel's MAXSYMLINKS
constexpr size_t kLongestName = 255;
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

Result<> Tree::add_layer(Source& source) {
  Node root;
  root.implied = true;
  uint32_t top = TRY(make(std::move(root)));
  bytes_ = 0;
  TarReader tar(source);
  TarEntry entry;
  while (TRY(tar.next(entry))) TRY(add_entry(top, entry), "layer entry \"" + entry.path.substr(0, 256) + "\"");
  merge(kRoot, top);
  ++layers_;
  return {};
}

Result<uint32_t> Tree::folder_at(uint32_t top, const std::string& path, bool create) {
  std::vector<uint32_t> way{top};
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
    auto& children = nodes_[way.back()].children;
    auto found = children.find(part);
    if (found == children.end() || found->second == kWhiteout) {
      if (!create) return fail_errno(path, ENOENT);
      if (part.size() > kLongestName) return fail("a name is longer than 255 bytes");
      Node folder;
      folder.implied = true;
      folder.hides = found != children.end();
      uint32_t made = TRY(make(std::move(folder)));
      children[part] = made;
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

Result<> Tree::whiteout(uint32_t folder, const std::string& name) {
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

Result<> Tree::add_entry(uint32_t top, const TarEntry& entry) {
  for (const auto& part : split(entry.path, '/'))
    if (part == ".." || part == "." || (part.empty() && !entry.path.empty())) return fail("the path leads outside or is not in its simplest form");
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
    adopt(nodes_[top]);
    return {};
  }
  uint32_t parent = TRY(folder_at(top, entry.path.find('/') == std::string::npos ? "" : entry.path.substr(0, entry.path.rfind('/')), true));
  std::string name(base_name(entry.path));
  if (name.starts_with(".wh.")) return whiteout(parent, name);
  if (name.size() > kLongestName) return fail("a name is longer than 255 bytes");

  auto before = nodes_[parent].children.find(name);
  bool there = before != nodes_[parent].children.end();
  if (there && before->second != kWhiteout && entry.type == EntryType::directory && nodes_[before->second].type == EntryType::directory) {
    adopt(nodes_[before->second]);
    return {};
  }
  if (entry.type == EntryType::hard_link) {
    std::string target = clean_path(entry.link);
    uint32_t folder = TRY(folder_at(top, std::string(dir_name(target)), false), "hard link target");
    auto linked = nodes_[folder].children.find(std::string(base_name(target)));
    if (linked == nodes_[folder].children.end() || linked->second == kWhiteout) return fail_errno("hard link target " + target, ENOENT);
    if (nodes_[linked->second].type == EntryType::directory) return fail("hard link to a folder");
    nodes_[parent].children[name] = linked->second;
    return {};
  }
  Node node;
  adopt(node);
  node.hides = there && (before->second == kWhiteout || nodes_[before->second].hides);
  node.layer = layers_;
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
  uint32_t made = TRY(make(std::move(node)));
  nodes_[parent].children[name] = made;
  return {};
}

void Tree::merge(uint32_t lower, uint32_t upper) {
  // Not recursive: a hostile layer nests as deep as its paths are long.
  std::vector<std::pair<uint32_t, uint32_t>> left{{lower, upper}};
  while (!left.empty()) {
    auto [below, above] = left.back();
    left.pop_back();
    Node& to = nodes_[below];
    Node& from = nodes_[above];
    if (from.hides) to.children.clear();
    for (auto& [name, id] : from.children) {
      auto known = to.children.find(name);
      if (id == kWhiteout) {
        if (known != to.children.end()) to.children.erase(known);
      } else if (known != to.children.end() && nodes_[id].type == EntryType::directory && nodes_[known->second].type == EntryType::directory) {
        left.emplace_back(known->second, id);
      } else if (nodes_[id].type == EntryType::directory) {
        // Into an empty one, so that the whiteouts in it go.
        uint32_t fresh = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
        nodes_[fresh].implied = true;
        to.children[name] = fresh;
        left.emplace_back(fresh, id);
      } else {
        to.children[name] = id;
      }
    }
    from.children.clear();
    if (!from.implied) {
      from.children.swap(to.children);
      from.hides = false;
      to = std::move(from);
    }
  }
}

}  // namespace caisson::image
