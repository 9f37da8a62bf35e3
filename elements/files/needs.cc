#include "files/needs.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>

#include "core/symbols.h"
#include "core/sys.h"
#include "core/text.h"
#include "files/scratch.h"

namespace caisson::element {
namespace {

CAISSON_NEXT(getenv);

constexpr size_t kMostSegments = 64;
constexpr uint64_t kMostDynamic = 64 << 10, kLongestPath = 4096;

bool read_at(int fd, uint64_t at, void* out, size_t size) { return call(SYS_pread64, fd, out, size, at) == (long)size; }

/// A NUL-terminated text of the file.
bool read_text(int fd, uint64_t at, char* out, size_t size) {
  long n = call(SYS_pread64, fd, out, size - 1, at);
  if (n <= 0) return false;
  out[n] = 0;
  return length(out) < (size_t)n || (size_t)n < size - 1;
}

struct Work {
  char search[kLongestPath], path[kLongestPath], name[256];
  Elf64_Phdr segments[kMostSegments];
};

class Needs {
 public:
  Needs(int folder, int fd, const Filling& what, Work& work) : folder_(folder), fd_(fd), what_(what), work_(work) {}

  void of_program(const Elf64_Ehdr& header) {
    if (!read_at(fd_, header.e_phoff, work_.segments, header.e_phnum * sizeof(Elf64_Phdr))) return;
    count_ = header.e_phnum;
    for (size_t i = 0; i < count_; ++i) {
      const auto& segment = work_.segments[i];
      if (segment.p_type == PT_INTERP && read_text(fd_, segment.p_offset, work_.path, sizeof work_.path)) fill_path(AT_FDCWD, work_.path, true, &what_);
      if (segment.p_type == PT_DYNAMIC) libraries(segment);
    }
  }

 private:
  [[nodiscard]] uint64_t in_file(uint64_t address) const {
    for (size_t i = 0; i < count_; ++i) {
      const auto& s = work_.segments[i];
      if (s.p_type == PT_LOAD && address >= s.p_vaddr && address - s.p_vaddr < s.p_filesz) return address - s.p_vaddr + s.p_offset;
    }
    return 0;
  }

  template <class F>
  void each(const Elf64_Phdr& dynamic, F use) {
    uint64_t size = dynamic.p_filesz < kMostDynamic ? dynamic.p_filesz : kMostDynamic;
    Elf64_Dyn d;
    for (uint64_t at = 0; at + sizeof d <= size && read_at(fd_, dynamic.p_offset + at, &d, sizeof d) && d.d_tag != DT_NULL; at += sizeof d) use(d);
  }

  void libraries(const Elf64_Phdr& dynamic) {
    uint64_t strings = 0, search = 0;
    each(dynamic, [&](const Elf64_Dyn& d) {
      if (d.d_tag == DT_STRTAB) strings = in_file(d.d_un.d_ptr);
      if (d.d_tag == DT_RUNPATH || (d.d_tag == DT_RPATH && search == 0)) search = d.d_un.d_val;
    });
    if (strings == 0) return;
    work_.search[0] = 0;
    if (search != 0 && !read_text(fd_, strings + search, work_.search, sizeof work_.search)) return;
    const char* given = tree.search_path;
    if (given == nullptr && next_getenv.get() != nullptr) given = next_getenv.get()("LD_LIBRARY_PATH");
    each(dynamic, [&](const Elf64_Dyn& d) {
      if (d.d_tag != DT_NEEDED || !read_text(fd_, strings + d.d_un.d_val, work_.name, sizeof work_.name)) return;
      for (const char* c = work_.name; *c != 0; ++c)
        if (*c == '/') {
          fill_path(AT_FDCWD, work_.name, true, &what_);
          return;
        }
      along(work_.search);
      along(given);
      // Beside the program: where the search path of what loads it, or has been loaded, leads.
      along("$ORIGIN");
    });
  }

  /// The library in each folder of a search path ("a:b"), where $ORIGIN is the program's own.
  void along(const char* path) {
    while (path != nullptr && *path != 0) {
      const char* end = path;
      while (*end != 0 && *end != ':') ++end;
      const char* origin = starts_with(path, "$ORIGIN") ? path + 7 : starts_with(path, "${ORIGIN}") ? path + 9
                                                                                                    : nullptr;
      Text<kLongestPath> text;
      if (origin != nullptr && origin <= end)
        text.add(".").add(origin, (size_t)(end - origin));
      else if (*path == '/')
        text.add(path, (size_t)(end - path));
      if (text.size() > 0) {
        text.add("/").add(work_.name);
        memcpy(work_.path, text.data(), text.size());
        work_.path[text.size()] = 0;
        fill_path(folder_, work_.path, true, &what_);
      }
      path = *end == 0 ? end : end + 1;
    }
  }

  int folder_, fd_;
  const Filling& what_;
  Work& work_;
  size_t count_ = 0;
};

}  // namespace

bool is_static(int fd) {
  Elf64_Ehdr header;
  Elf64_Phdr segment;
  if (!read_at(fd, 0, &header, sizeof header) || header.e_ident[0] != ELFMAG0 || header.e_ident[1] != 'E' || header.e_phentsize != sizeof segment) return false;
  for (size_t i = 0; i < header.e_phnum && i < kMostSegments; ++i)
    if (!read_at(fd, header.e_phoff + i * sizeof segment, &segment, sizeof segment) || segment.p_type == PT_INTERP) return false;
  return true;
}

void fill_needs(int folder, int fd, const Filling& what) {
  char start[256] = {};
  if (call(SYS_pread64, fd, start, sizeof start - 1, 0) < 4) return;
  if (start[0] == '#' && start[1] == '!') {
    char* p = start + 2;
    while (*p == ' ' || *p == '\t') ++p;
    char* end = p;
    while (*end != 0 && *end != ' ' && *end != '\t' && *end != '\n') ++end;
    *end = 0;
    fill_path(AT_FDCWD, p, true, &what);
    return;
  }
  Elf64_Ehdr header;
  if (!starts_with(start, ELFMAG) || start[EI_CLASS] != ELFCLASS64 || !read_at(fd, 0, &header, sizeof header)) return;
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > kMostSegments) return;
  Scratch memory(sizeof(Work));
  if (memory.get() != nullptr) Needs(folder, fd, what, *reinterpret_cast<Work*>(memory.get())).of_program(header);
}

}  // namespace caisson::element
