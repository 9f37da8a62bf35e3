// The reader of packages of the element "files", as it is used in programs: on an index that
// nobody has checked.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "files/package.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::element;
  PackageHeader header;
  if (size < sizeof header) return 0;
  std::vector<uint64_t> aligned((size + 7) / 8);
  auto* bytes = reinterpret_cast<uint8_t*>(aligned.data());
  std::memcpy(bytes, data, size);
  // What a checksum would have stopped is what is to be tried.
  std::memcpy(&header, bytes, sizeof header);
  std::memcpy(header.magic, CAISSON_PACKAGE_MAGIC, sizeof header.magic);
  header.version = CAISSON_PACKAGE_VERSION;
  header.size = size;
  header.header_crc = crc32c(&header, offsetof(PackageHeader, header_crc));
  if (Package::check_header(&header, size) != nullptr) return 0;
  const uint8_t key[CAISSON_PACKAGE_KEY] = {};
  std::vector<uint64_t> plain;
  const void* index = bytes + header.index_offset;
  if ((header.flags & CAISSON_PACKAGE_ENCRYPTED) != 0) {
    plain.resize(Package::plain_index_size(header) / 8 + 1);
    if (!Package::decrypt_index(header, index, key, plain.data())) return 0;
    index = plain.data();
  }
  Package package;
  package.set(header, index);
  bool good = package.check_index() == nullptr;

  int fd = ::memfd_create("package", MFD_CLOEXEC);
  if (::write(fd, bytes, size) != static_cast<ssize_t>(size)) __builtin_trap();
  std::vector<char> scratch(package.scratch_size()), out(header.chunk_size);
  for (uint32_t id = 0; id < package.count(); ++id) {
    const PackageEntry& e = *package.entry(id);
    Name name = package.name(e), target = package.target(e);
    uint32_t found = package.find(e.parent, name.data == nullptr ? "" : name.data, name.size);
    if (good && id > 0 && found != id) __builtin_trap();
    if (good && is_link(e) && target.size != e.size) __builtin_trap();
    for (uint32_t i = 0; i < e.count && i < 64; ++i)
      if (long n = package.read_chunk(fd, e, i, key, scratch.data(), out.data()); n > static_cast<long>(out.size())) __builtin_trap();
  }
  ::close(fd);
  return 0;
}
