#include "sys/bounded_disk.h"

#include <ext2fs/ext2fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "sys/mount.h"

namespace caisson::sys {
namespace {

std::unexpected<Error> ext2_error(const char* step, errcode_t code) {
  // Small codes are errnos, the others libext2fs's own.
  if (code > 0 && code < 4096) return fail_errno(std::string("format the disk: ") + step, static_cast<int>(code));
  return fail(std::string("format the disk: ") + step + ": libext2fs error " + std::to_string(code));
}

errcode_t format(ext2_filsys fs, const char** step) {
  *step = "allocate tables";
  if (errcode_t code = ext2fs_allocate_tables(fs); code != 0) return code;
  *step = "root folder";
  if (errcode_t code = ext2fs_mkdir(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, nullptr); code != 0) return code;
  for (ext2_ino_t inode = EXT2_BAD_INO; inode < EXT2_FIRST_INODE(fs->super); ++inode)
    if (inode != EXT2_ROOT_INO) ext2fs_inode_alloc_stats2(fs, inode, +1, 0);
  *step = "journal";
  // The smallest journal there is: 1,024 blocks.
  if (errcode_t code = ext2fs_add_journal_inode(fs, 1024, 0); code != 0) return code;
  fs->super->s_state |= EXT2_VALID_FS;
  ext2fs_mark_super_dirty(fs);
  ext2fs_mark_ib_dirty(fs);
  ext2fs_mark_bb_dirty(fs);
  *step = "write";
  return ext2fs_flush(fs);
}

}  // namespace

Result<> make_disk(const std::string& path, uint64_t bytes) {
  Fd fd = TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600), "create the disk");
  auto made = [&]() -> Result<> {
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) < 0) return fail_errno("create the disk " + path);
    struct ext2_super_block wanted;
    std::memset(&wanted, 0, sizeof wanted);
    ext2fs_blocks_count_set(&wanted, bytes / 4096);
    wanted.s_log_block_size = 2;  // 4,096 bytes
    wanted.s_log_cluster_size = 2;
    wanted.s_rev_level = EXT2_DYNAMIC_REV;
    wanted.s_inode_size = 256;
    wanted.s_inodes_count = static_cast<__u32>(std::min<uint64_t>(bytes / 8192, UINT32_MAX / 2));
    ext2fs_set_feature_filetype(&wanted);
    ext2fs_set_feature_sparse_super(&wanted);
    ext2fs_set_feature_large_file(&wanted);
    ext2fs_set_feature_extents(&wanted);
    ext2fs_set_feature_xattr(&wanted);
    ext2_filsys fs = nullptr;
    if (errcode_t code = ext2fs_initialize(path.c_str(), EXT2_FLAG_64BITS, &wanted, unix_io_manager, &fs); code != 0) return ext2_error("initialise", code);
    const char* step = "";
    errcode_t code = format(fs, &step);
    errcode_t closed = ext2fs_close_free(&fs);
    if (code != 0) return ext2_error(step, code);
    if (closed != 0) return ext2_error("close", closed);
    if (::fsync(fd.get()) < 0) return fail_errno("fsync " + path);
    return {};
  }();
  if (!made) ::unlink(path.c_str());
  return made;
}

Result<Fd> mount_disk(const std::string& path) {
  Fd file = TRY(open_file(path, O_RDWR), "open the disk");
  Fd control = TRY(open_file("/dev/loop-control", O_RDWR), "this host has no loop devices, which a bounded disk needs");
  for (int attempt = 0; attempt < 64; ++attempt) {
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return fail_errno("find a free loop device");
    std::string name = "/dev/loop" + std::to_string(number);
    Fd device = TRY(open_file(name, O_RDWR));
    struct loop_config config = {};
    config.fd = static_cast<__u32>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) < 0) {
      if (errno == EBUSY) continue;  // another process was quicker
      return fail_errno("attach " + path + " to " + name);
    }
    return make_detached("ext4", name, {}, 0);
  }
  return fail("no free loop device was found for " + path, EBUSY);
}

}  // namespace caisson::sys
