#include "image/erofs.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

namespace caisson::image {
namespace {

// The structures on the disk are little-endian, as this machine is.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

constexpr uint64_t kBlock = 512, kSlot = 32;  // inodes begin at multiples of a slot; a nid counts slots
constexpr uint64_t kSuperOffset = 1024, kDeviceSlot = 128;
constexpr uint32_t kMagic = 0xE0F5E1E2, kChunkedFile = 0x4, kDeviceTable = 0x8;
constexpr uint16_t kExtended = 1, kPlain = 0, kInline = 2, kChunked = 4;
constexpr uint16_t kOneChunk = 0x20 | 0x1f;  // with chunk indexes; one chunk of 2^40 bytes
constexpr uint64_t kLargestFile = uint64_t{1} << 40;

struct SuperBlock {
  uint32_t magic, checksum, feature_compat;
  uint8_t block_bits, extra_slots;
  uint16_t root_nid;
  uint64_t inodes, build_time;
  uint32_t build_time_ns, blocks, meta_block, xattr_block;
  uint8_t uuid[16], volume_name[16];
  uint32_t feature_incompat;
  uint16_t compression, extra_devices, device_slot;
  uint8_t dir_block_bits, xattr_prefixes;
  uint32_t xattr_prefix_start;
  uint64_t packed_nid;
  uint8_t xattr_filter, reserved[23];
};
static_assert(sizeof(SuperBlock) == 128);

struct Device {
  uint8_t tag[64];
  uint32_t blocks, unified_address;
  uint8_t reserved[56];
};
static_assert(sizeof(Device) == kDeviceSlot);

struct Inode {
  uint16_t format, xattr_count, mode, reserved;
  uint64_t size;
  uint32_t address;  // of the first block; a device's number; how chunks are told
  uint32_t number, uid, gid;
  uint64_t mtime;
  uint32_t mtime_ns, links;
  uint8_t reserved2[16];
};
static_assert(sizeof(Inode) == 64);

struct ChunkIndex {
  uint16_t block_high, device;
  uint32_t block;
};

struct DirectoryEntry {
  uint64_t nid;
  uint16_t name_offset;
  uint8_t type, reserved;
} __attribute__((packed));
static_assert(sizeof(DirectoryEntry) == 12);

struct XattrHeader {
  uint32_t filter;
  uint8_t shared, reserved[7];
};
struct XattrEntry {
  uint8_t name_size, prefix;
  uint16_t value_size;
};

uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

template <class T>
void append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

mode_t type_bits(EntryType type) {
  switch (type) {
    case EntryType::directory: return S_IFDIR;
    case EntryType::symlink: return S_IFLNK;
    case EntryType::char_device: return S_IFCHR;
    case EntryType::block_device: return S_IFBLK;
    case EntryType::fifo: return S_IFIFO;
    default: return S_IFREG;
  }
}

uint8_t directory_type(EntryType type) {
  switch (type) {
    case EntryType::directory: return 2;
    case EntryType::char_device: return 3;
    case EntryType::block_device: return 4;
    case EntryType::fifo: return 5;
    case EntryType::symlink: return 7;
    default: return 1;
  }
}

/// As the kernel writes numbers of devices on disks (new_encode_dev).
uint32_t encode_device(uint32_t major, uint32_t minor) { return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12); }

Result<std::string> encode_xattrs(const Node& node) {
  std::string out;
  if (node.xattrs.empty()) return out;
  append(out, XattrHeader{});
  for (const auto& [key, value] : node.xattrs) {
    bool user = key.starts_with("user.");
    std::string name = key.substr(user ? 5 : 9);  // or "security."
    if (name.size() > 255 || value.size() > UINT16_MAX) return fail("the attribute " + key.substr(0, 64) + " is too large", E2BIG);
    append(out, XattrEntry{static_cast<uint8_t>(name.size()), static_cast<uint8_t>(user ? 1 : 6), static_cast<uint16_t>(value.size())});
    out += name + value;
    out.resize(round_up(out.size(), 4));
  }
  if (out.size() > UINT16_MAX) return fail("extended attributes of more than 64 KiB", E2BIG);
  return out;
}

class Writer {
 public:
  Writer(const Tree& tree, const std::vector<uint64_t>& tar_sizes) : tree_(tree), tar_sizes_(tar_sizes), spots_(tree.size()) {}

  Result<> run(Sink& out) {
    end_ = round_up(kSuperOffset + sizeof(SuperBlock) + kDeviceSlot * tar_sizes_.size(), kBlock);
    // The root first: the super block has 16 bits for its number.
    TRY(place(Tree::kRoot, Tree::kRoot));
    // Names of one folder beside each other: they are asked for together.
    for (size_t i = 0; i < order_.size(); ++i) {
      uint32_t id = order_[i];
      for (const auto& [name, child] : tree_.node(id).children) TRY(place(child, id), "\"" + name + "\"");
    }
    end_ = round_up(end_, kBlock);
    for (uint32_t id : order_)
      if (Spot& spot = spots_[id]; has_data(id) && !spot.in_inode) {
        spot.data = end_;
        end_ += round_up(spot.size, kBlock);
      }
    if (end_ / kBlock > UINT32_MAX) return fail("the image has too many files", EFBIG);
    TRY(emit_head(out));
    for (uint32_t id : order_) TRY(emit_inode(out, id));
    for (uint32_t id : order_)
      if (has_data(id) && !spots_[id].in_inode) TRY(emit(out, spots_[id].data, content(id)));
    return emit(out, end_, {});
  }

 private:
  /// Where an inode and what belongs to it lie: bytes from the start.
  struct Spot {
    uint64_t at = 0;    // the inode
    uint64_t size = 0;  // as stat shows it
    uint64_t data = 0;  // the blocks of a folder or a long link
    uint32_t links = 0, parent = 0;
    bool in_inode = false;  // the data follows the inode
    std::string xattrs;
  };

  /// Whether what it holds lies in this file system.
  [[nodiscard]] bool has_data(uint32_t id) const { return tree_.node(id).type == EntryType::directory || tree_.node(id).type == EntryType::symlink; }

  /// Finds a place for a node's inode, or counts one more name of it.
  Result<> place(uint32_t id, uint32_t parent) {
    Spot& spot = spots_[id];
    bool fresh = spot.links == 0;
    const Node& node = tree_.node(id);
    ++spot.links;
    if (node.type == EntryType::directory && id != Tree::kRoot) ++spots_[parent].links;  // its ".."
    if (!fresh) return {};
    if (node.type == EntryType::directory) ++spot.links;  // its "."
    spot.parent = parent;
    spot.xattrs = TRY(encode_xattrs(node));
    uint64_t room = sizeof(Inode) + spot.xattrs.size();
    if (node.type == EntryType::file && node.size > 0) {
      if (node.size > kLargestFile) return fail("a file of more than 1 TiB", EFBIG);
      spot.size = node.size;
      room = round_up(room, sizeof(ChunkIndex)) + sizeof(ChunkIndex);
    } else if (has_data(id)) {
      spot.size = node.type == EntryType::symlink ? node.link.size() : folder(id, nullptr);
      spot.in_inode = room + spot.size <= kBlock;
      if (spot.in_inode) room += spot.size;
    }
    // An inode, and data in it, must not cross a block's end.
    if (end_ % kBlock + (spot.in_inode ? room : sizeof(Inode)) > kBlock) end_ = round_up(end_, kBlock);
    spot.at = end_;
    end_ = round_up(end_ + room, kSlot);
    order_.push_back(id);
    return {};
  }

  /// The blocks of a folder: in each the entries, then their names, both in the order of the
  /// names. Returns the size; writes where `out` is given.
  uint64_t folder(uint32_t id, std::string* out) {
    const auto& children = tree_.node(id).children;
    std::vector<std::pair<std::string_view, uint32_t>> all(children.begin(), children.end());
    for (std::pair<std::string_view, uint32_t> own : {std::pair(".", id), std::pair("..", spots_[id].parent)})
      all.insert(std::lower_bound(all.begin(), all.end(), own), own);
    uint64_t size = 0;
    for (size_t first = 0, next; first < all.size(); first = next) {
      uint64_t used = 0;
      for (next = first; next < all.size() && used + sizeof(DirectoryEntry) + all[next].first.size() <= kBlock; ++next) used += sizeof(DirectoryEntry) + all[next].first.size();
      bool last = next == all.size();
      size += last ? used : kBlock;
      if (out == nullptr) continue;
      uint64_t name_at = (next - first) * sizeof(DirectoryEntry);
      std::string names;
      for (size_t i = first; i < next; ++i) {
        append(*out, DirectoryEntry{spots_[all[i].second].at / kSlot, static_cast<uint16_t>(name_at), directory_type(tree_.node(all[i].second).type), 0});
        names += all[i].first;
        name_at += all[i].first.size();
      }
      *out += names;
      if (!last) out->resize(round_up(out->size(), kBlock));
    }
    return size;
  }

  std::string content(uint32_t id) {
    if (tree_.node(id).type == EntryType::symlink) return tree_.node(id).link;
    std::string out;
    folder(id, &out);
    return out;
  }

  /// Writes at a place that no earlier write has passed.
  Result<> emit(Sink& out, uint64_t at, std::string_view bytes) {
    pending_.resize(at - written_);
    pending_ += bytes;
    constexpr size_t kEnough = 1u << 18;
    if (pending_.size() < kEnough && at != end_) return {};
    TRY(out.write(pending_));
    written_ += pending_.size();
    pending_.clear();
    return {};
  }

  Result<> emit_head(Sink& out) {
    SuperBlock super{};
    super.magic = kMagic;
    super.block_bits = 9;
    super.root_nid = static_cast<uint16_t>(spots_[Tree::kRoot].at / kSlot);
    super.inodes = order_.size();
    super.blocks = static_cast<uint32_t>(end_ / kBlock);
    std::memcpy(super.volume_name, "caisson", 7);
    super.feature_incompat = kChunkedFile | kDeviceTable;
    super.extra_devices = static_cast<uint16_t>(tar_sizes_.size());
    super.device_slot = (kSuperOffset + sizeof super) / kDeviceSlot;
    std::string head;
    append(head, super);
    for (uint64_t size : tar_sizes_) {
      Device device{};
      if (size / kBlock > UINT32_MAX) return fail("a layer of more than 2 TiB", EFBIG);
      device.blocks = static_cast<uint32_t>(round_up(size, kBlock) / kBlock);
      append(head, device);
    }
    return emit(out, kSuperOffset, head);
  }

  Result<> emit_inode(Sink& out, uint32_t id) {
    const Node& node = tree_.node(id);
    const Spot& spot = spots_[id];
    bool chunked = node.type == EntryType::file && node.size > 0;
    Inode inode{};
    inode.format = static_cast<uint16_t>(kExtended | (chunked ? kChunked : spot.in_inode ? kInline
                                                                                         : kPlain)
                                                         << 1);
    // In words of four bytes; the header, of three, counts as one.
    if (!spot.xattrs.empty()) inode.xattr_count = static_cast<uint16_t>((spot.xattrs.size() - sizeof(XattrHeader)) / 4 + 1);
    inode.mode = static_cast<uint16_t>(type_bits(node.type) | node.mode);
    inode.size = spot.size;
    if (chunked)
      inode.address = kOneChunk;
    else if (node.type == EntryType::char_device || node.type == EntryType::block_device)
      inode.address = encode_device(node.major, node.minor);
    else
      inode.address = static_cast<uint32_t>(spot.data / kBlock);
    inode.number = ++number_;
    inode.uid = node.uid;
    inode.gid = node.gid;
    inode.mtime = static_cast<uint64_t>(node.mtime);
    inode.mtime_ns = node.mtime_ns;
    inode.links = spot.links;
    std::string bytes;
    append(bytes, inode);
    bytes += spot.xattrs;
    if (chunked) {
      bytes.resize(round_up(bytes.size(), sizeof(ChunkIndex)));
      append(bytes, ChunkIndex{0, static_cast<uint16_t>(node.layer + 1), static_cast<uint32_t>(node.offset / kBlock)});
    } else if (spot.in_inode) {
      bytes += content(id);
    }
    return emit(out, spot.at, bytes);
  }

  const Tree& tree_;
  const std::vector<uint64_t>& tar_sizes_;
  std::vector<Spot> spots_;      // by node
  std::vector<uint32_t> order_;  // of the inodes
  uint64_t end_ = 0, written_ = 0;
  uint32_t number_ = 0;
  std::string pending_;
};

}  // namespace

Result<> write_erofs(const Tree& tree, const std::vector<uint64_t>& tar_sizes, Sink& out) {
  if (tar_sizes.size() != tree.layers() || tar_sizes.size() >= UINT16_MAX) return fail("an image of " + std::to_string(tar_sizes.size()) + " layers", EINVAL);
  return Writer(tree, tar_sizes).run(out);
}

}  // namespace caisson::image
