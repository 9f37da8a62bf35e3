// Whole archives into a store: refused or loaded, never half.
#include <fcntl.h>
#include <unistd.h>

#include "../unit/scratch.h"
#include "image/archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson;
  Scratch dir;
  if (!replace_file(dir / "a.tar", std::string_view(reinterpret_cast<const char*>(data), size))) return 0;
  auto store = image::Store::open(dir / "store");
  if (!store) return 0;
  auto loaded = image::load(*store, dir / "a.tar");
  auto listed = store->list();
  if (!listed || (!loaded && !listed->empty())) __builtin_trap();
  return 0;
}
