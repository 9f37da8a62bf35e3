// The chunk index of a layer that is fetched as it is read, and the tree that is made of it.
#include "image/chunks.h"

#include "image/tree.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::image;
  TextSource source({reinterpret_cast<const char*>(data), size});
  auto index = ChunkIndex::open(source);
  if (!index) return 0;
  Tree tree({.nodes = 1000, .bytes = 1u << 30});
  (void)tree.add_layer(*index);
  return 0;
}
