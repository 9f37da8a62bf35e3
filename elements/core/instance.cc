#include "core/instance.h"

#include "core/sys.h"

struct caisson_element_page* caisson_element = nullptr;

namespace caisson::element {
namespace {

caisson_element_page first;  ///< what a child's page is made from; and where the kernel gives none

constexpr size_t kPage = 4096;

void fill(caisson_element_page& page) {
  page = first;
  page.process = (uint32_t)call(SYS_getpid);
  if (call(SYS_getrandom, page.instance, sizeof page.instance, 1 /* GRND_NONBLOCK */) != (long)sizeof page.instance) {
    // Before there is randomness, and where it is forbidden: still no other's.
    uint64_t now[2] = {};
    call(SYS_clock_gettime, 1, now);
    page.instance[0] = now[0] * 1'000'000'000 + now[1];
    page.instance[1] = reinterpret_cast<uint64_t>(&page) ^ page.process;
  }
  __atomic_store_n(&page.magic, CAISSON_ELEMENT_MAGIC, __ATOMIC_RELEASE);
}

}  // namespace

void make_instance(const char* name, caisson_linkage linkage, const char* const counters[]) {
  first.abi = CAISSON_ELEMENT_ABI;
  first.linkage = linkage;
  for (size_t i = 0; i + 1 < sizeof first.name && name[i] != 0; ++i) first.name[i] = name[i];
  for (int c = 0; c < CAISSON_ELEMENT_COUNTERS && counters[c] != nullptr; ++c)
    for (size_t i = 0; i + 1 < sizeof first.counter_names[c] && counters[c][i] != 0; ++i) first.counter_names[c][i] = counters[c][i];
  long page = call(SYS_mmap, 0, kPage, 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);
  if (page < 0 && page > -4096) {
    caisson_element = &first;
  } else {
    // A child starts with an empty page, and so never passes for its parent.
    call(SYS_madvise, page, kPage, 18 /* MADV_WIPEONFORK */);
    caisson_element = reinterpret_cast<caisson_element_page*>(page);
  }
  fill(*caisson_element);
}

caisson_element_page& instance() {
  caisson_element_page& page = caisson_element != nullptr ? *caisson_element : first;
  if (__atomic_load_n(&page.magic, __ATOMIC_ACQUIRE) != CAISSON_ELEMENT_MAGIC) fill(page);
  return page;
}

}  // namespace caisson::element
