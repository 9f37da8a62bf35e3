#include "core/symbols.h"

#include <elf.h>
#include <link.h>

#include "core/sys.h"

extern "C" {
// glibc since 2.2.4, and musl.
__attribute__((weak)) int dl_iterate_phdr(int (*callback)(struct dl_phdr_info*, size_t, void*), void* data);
extern const char caisson_here[] __attribute__((visibility("hidden")));
const char caisson_here[1] = {0};
}

namespace caisson::element {
namespace {

struct Wanted {
  const char* name;
  bool passed_this = false;
  void* found = nullptr;
};

struct Tables {
  const ElfW(Sym) * symbols = nullptr;
  const char* strings = nullptr;
  const uint32_t* gnu_hash = nullptr;
  const uint32_t* hash = nullptr;
  const uint16_t* versions = nullptr;
};

/// glibc has made addresses of the offsets in the dynamic section, musl has not.
template <class T>
const T* at(const struct dl_phdr_info* object, uint64_t value) {
  return reinterpret_cast<const T*>(value < object->dlpi_addr ? object->dlpi_addr + value : value);
}

uint32_t gnu_hash(const char* name) {
  uint32_t h = 5381;
  for (; *name != 0; ++name) h = h * 33 + (unsigned char)*name;
  return h;
}

uint32_t elf_hash(const char* name) {
  uint32_t h = 0;
  for (; *name != 0; ++name) {
    h = (h << 4) + (unsigned char)*name;
    h = (h ^ ((h & 0xf0000000) >> 24)) & 0x0fffffff;
  }
  return h;
}

bool fits(const Tables& t, uint32_t index, const char* name) {
  const auto& symbol = t.symbols[index];
  constexpr uint16_t kHidden = 0x8000;  // a version that is kept for old programs
  if (symbol.st_shndx == SHN_UNDEF || symbol.st_value == 0 || !same(t.strings + symbol.st_name, name)) return false;
  return t.versions == nullptr || (t.versions[index] & kHidden) == 0;
}

const ElfW(Sym) * find(const Tables& t, const char* name) {
  if (t.gnu_hash != nullptr) {
    uint32_t buckets = t.gnu_hash[0], first = t.gnu_hash[1], words = t.gnu_hash[2], h = gnu_hash(name);
    const uint32_t* bucket = t.gnu_hash + 4 + words * (sizeof(ElfW(Addr)) / 4);
    const uint32_t* chain = bucket + buckets;
    if (buckets == 0) return nullptr;
    uint32_t i = bucket[h % buckets];
    if (i < first) return nullptr;
    for (;; ++i) {
      uint32_t value = chain[i - first];
      if ((value | 1) == (h | 1) && fits(t, i, name)) return &t.symbols[i];
      if ((value & 1) != 0) return nullptr;
    }
  }
  if (t.hash == nullptr || t.hash[0] == 0) return nullptr;
  const uint32_t* bucket = t.hash + 2;
  for (uint32_t i = bucket[elf_hash(name) % t.hash[0]]; i != 0; i = (bucket + t.hash[0])[i])
    if (fits(t, i, name)) return &t.symbols[i];
  return nullptr;
}

int visit(struct dl_phdr_info* object, size_t, void* data) {
  auto& wanted = *static_cast<Wanted*>(data);
  const ElfW(Dyn)* dynamic = nullptr;
  bool this_one = false, has_text = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& segment = object->dlpi_phdr[i];
    uint64_t begin = object->dlpi_addr + segment.p_vaddr, here = reinterpret_cast<uint64_t>(caisson_here);
    if (segment.p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const ElfW(Dyn)*>(begin);
    if (segment.p_type != PT_LOAD) continue;
    has_text = true;
    this_one |= here >= begin && here < begin + segment.p_memsz;
  }
  if (this_one) wanted.passed_this = true;
  // The vDSO has the same names with other rules.
  bool vdso = object->dlpi_name != nullptr && starts_with(object->dlpi_name, "linux-vdso");
  if (this_one || !wanted.passed_this || vdso || dynamic == nullptr || !has_text) return 0;
  Tables tables;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    uint64_t value = dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_SYMTAB) tables.symbols = at<ElfW(Sym)>(object, value);
    if (dynamic->d_tag == DT_STRTAB) tables.strings = at<char>(object, value);
    if (dynamic->d_tag == DT_GNU_HASH) tables.gnu_hash = at<uint32_t>(object, value);
    if (dynamic->d_tag == DT_HASH) tables.hash = at<uint32_t>(object, value);
    if (dynamic->d_tag == DT_VERSYM) tables.versions = at<uint16_t>(object, value);
  }
  if (tables.symbols == nullptr || tables.strings == nullptr) return 0;
  const auto* symbol = find(tables, wanted.name);
  if (symbol == nullptr) return 0;
  uint64_t address = object->dlpi_addr + symbol->st_value;
  // Chosen when it is bound, for the processor at hand.
  if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC) address = reinterpret_cast<uint64_t (*)()>(address)();
  wanted.found = reinterpret_cast<void*>(address);
  return 1;
}

}  // namespace

void* next_symbol(const char* name) {
  if (&dl_iterate_phdr == nullptr) return nullptr;
  Wanted wanted{name};
  dl_iterate_phdr(visit, &wanted);
  return wanted.found;
}

}  // namespace caisson::element
