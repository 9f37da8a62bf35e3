#include "core/vdso.h"

#include <elf.h>

#include "core/sys.h"

namespace caisson::element {
namespace {

struct Mapping {
  uint64_t begin = 0, end = 0;
};
constexpr int kMostMappings = 6;
constexpr int kFixed = 0x10, kPrivateAnonymous = 0x22, kReadWrite = 3, kReadExecute = 5;

uint64_t hexadecimal(const char*& p) {
  uint64_t value = 0;
  for (;; ++p) {
    if (*p >= '0' && *p <= '9')
      value = value * 16 + (uint64_t)(*p - '0');
    else if (*p >= 'a' && *p <= 'f')
      value = value * 16 + (uint64_t)(*p - 'a' + 10);
    else
      return value;
  }
}

/// The mappings of the vDSO and of its data, which come before it without a gap; the vDSO
/// last. Returns how many.
int find_mappings(Mapping* out) {
  long fd = call(SYS_openat, -100, "/proc/self/maps", 02000000 /* O_CLOEXEC */, 0);
  if (fd < 0) return 0;
  static char buffer[16384];
  size_t used = 0;
  int count = 0;
  bool complete = false;
  for (;;) {
    long n = call(SYS_read, fd, buffer + used, sizeof buffer - used);
    if (n <= 0) break;
    used += (size_t)n;
    size_t begin = 0;
    for (size_t i = 0; i < used; ++i) {
      if (buffer[i] != '\n') continue;
      const char* line = buffer + begin;
      size_t size = i - begin;
      bool data = ends_with(line, size, "[vvar]") || ends_with(line, size, "[vvar_vclock]");
      bool code = ends_with(line, size, "[vdso]");
      if ((data || code) && count < kMostMappings) {
        Mapping m;
        m.begin = hexadecimal(line);
        ++line;
        m.end = hexadecimal(line);
        if (count > 0 && out[count - 1].end != m.begin) complete = false, count = 0;
        out[count++] = m;
        complete = code;
      }
      begin = i + 1;
    }
    for (size_t i = begin; i < used; ++i) buffer[i - begin] = buffer[i];
    used -= begin;
    if (used == sizeof buffer) break;  // a line that long is none of these
  }
  call(SYS_close, fd);
  return complete ? count : 0;
}

struct Image {
  const Elf64_Sym* symbols = nullptr;
  const char* strings = nullptr;
  uint32_t count = 0;
};

bool read_image(uint64_t base, Image& out) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  if (header->e_ident[0] != 0x7f || header->e_ident[1] != 'E' || header->e_machine != EM_X86_64) return false;
  const auto* segment = reinterpret_cast<const Elf64_Phdr*>(base + header->e_phoff);
  const Elf64_Dyn* dynamic = nullptr;
  for (int i = 0; i < header->e_phnum; ++i)
    if (segment[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn*>(base + segment[i].p_offset);
  if (dynamic == nullptr) return false;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    uint64_t value = dynamic->d_un.d_ptr;
    if (value < base) value += base;
    if (dynamic->d_tag == DT_SYMTAB) out.symbols = reinterpret_cast<const Elf64_Sym*>(value);
    if (dynamic->d_tag == DT_STRTAB) out.strings = reinterpret_cast<const char*>(value);
    if (dynamic->d_tag == DT_HASH) out.count = reinterpret_cast<const uint32_t*>(value)[1];
    if (dynamic->d_tag == DT_GNU_HASH && out.count == 0) {
      // As many as the last chain reaches (the kernel leaves DT_HASH out since 6.?).
      const auto* table = reinterpret_cast<const uint32_t*>(value);
      const uint32_t* bucket = table + 4 + table[2] * 2;
      uint32_t last = 0;
      for (uint32_t i = 0; i < table[0]; ++i)
        if (bucket[i] > last) last = bucket[i];
      const uint32_t* chain = bucket + table[0];
      if (last >= table[1]) {
        while ((chain[last - table[1]] & 1) == 0) ++last;
        out.count = last + 1;
      }
    }
  }
  return out.symbols != nullptr && out.strings != nullptr && out.count != 0;
}

bool is_function(const Elf64_Sym& symbol) { return ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_shndx != SHN_UNDEF && symbol.st_value != 0; }

constexpr size_t kJumpSize = 12;
/// movabs $target, %rax; jmp *%rax
void write_jump(uint64_t where, uint64_t target) {
  auto* code = reinterpret_cast<unsigned char*>(where);
  code[0] = 0x48;
  code[1] = 0xb8;
  for (int i = 0; i < 8; ++i) code[2 + i] = (unsigned char)(target >> (8 * i));
  code[10] = 0xff;
  code[11] = 0xe0;
}

bool collect(const Image& image, uint64_t base, Replaced* list, size_t count) {
  size_t found = 0;
  for (uint32_t s = 0; s < image.count; ++s)
    for (size_t i = 0; i < count; ++i)
      if (is_function(image.symbols[s]) && same(image.strings + image.symbols[s].st_name, list[i].name)) {
        list[i].kernels = reinterpret_cast<void*>(base + image.symbols[s].st_value);
        ++found;
      }
  return found == count;
}

bool mapped(long address) { return address >= 0 || address < -4095; }

}  // namespace

bool find_vdso(Replaced* list, size_t count) {
  Mapping mappings[kMostMappings];
  int n = find_mappings(mappings);
  Image image;
  return n > 0 && read_image(mappings[n - 1].begin, image) && collect(image, mappings[n - 1].begin, list, count);
}

bool replace_vdso(Replaced* list, size_t count) {
  Mapping mappings[kMostMappings];
  int n = find_mappings(mappings);
  if (n == 0) return false;
  const Mapping& code = mappings[n - 1];
  Image image;
  if (!read_image(code.begin, image)) return false;
  // Each function must have room for the jump.
  for (uint32_t s = 0; s < image.count; ++s)
    if (is_function(image.symbols[s]) && image.symbols[s].st_size < kJumpSize) return false;
  uint64_t begin = mappings[0].begin, size = code.end - begin;
  long place = call(SYS_mmap, 0, size, 0, kPrivateAnonymous, -1, 0);
  if (!mapped(place)) return false;
  int64_t distance = place - (long)begin;
  auto move = [](const Mapping& m, int64_t by) { return mapped(call(SYS_mremap, m.begin, m.end - m.begin, m.end - m.begin, 3 /* may move, fixed */, (long)m.begin + by)); };
  int moved = 0;
  while (moved < n && move(mappings[moved], distance)) ++moved;
  if (moved < n) {
    // Some kernels seal them: back with those that went.
    for (int i = 0; i < moved; ++i) {
      Mapping there{mappings[i].begin + (uint64_t)distance, mappings[i].end + (uint64_t)distance};
      move(there, -distance);
    }
    call(SYS_munmap, place, size);
    return false;
  }
  uint64_t kernels = code.begin + (uint64_t)distance, code_size = code.end - code.begin;
  long copy = call(SYS_mmap, code.begin, code_size, kReadWrite, kPrivateAnonymous | kFixed, -1, 0);
  if (!mapped(copy)) {
    for (int i = 0; i < n; ++i) move({mappings[i].begin + (uint64_t)distance, mappings[i].end + (uint64_t)distance}, -distance);
    return false;
  }
  memcpy(reinterpret_cast<void*>(copy), reinterpret_cast<const void*>(kernels), code_size);
  bool complete = collect(image, kernels, list, count);
  for (uint32_t s = 0; s < image.count; ++s) {
    const auto& symbol = image.symbols[s];
    if (!is_function(symbol)) continue;
    uint64_t target = kernels + symbol.st_value;
    for (size_t i = 0; i < count; ++i)
      // Also under the name without "__vdso_", which is an alias.
      if (reinterpret_cast<uint64_t>(list[i].kernels) == target) target = reinterpret_cast<uint64_t>(list[i].function);
    write_jump(code.begin + symbol.st_value, target);
  }
  call(SYS_mprotect, code.begin, code_size, kReadExecute);
  return complete;
}

}  // namespace caisson::element
