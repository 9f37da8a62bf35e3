// Layers on top of each other, and the index over them: refused, or an index that is whole.
#include "image/erofs.h"

namespace {
using namespace caisson;

class CountingSink : public image::Sink {
 public:
  Result<> write(std::string_view data) override {
    size += data.size();
    return {};
  }
  uint64_t size = 0;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The first byte says where the second layer begins, in blocks.
  if (size < 1) return 0;
  std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  size_t cut = std::min<size_t>(text.size(), size_t{data[0]} * 512);
  image::Tree tree({.nodes = 10'000, .bytes = 1u << 30});
  std::vector<uint64_t> sizes;
  for (std::string_view layer : {text.substr(0, cut), text.substr(cut)}) {
    image::TextSource source(layer);
    if (!tree.add_layer(source)) return 0;
    sizes.push_back(layer.size());
  }
  CountingSink out;
  auto written = image::write_erofs(tree, sizes, out);
  if (written && (out.size == 0 || out.size % 512 != 0)) __builtin_trap();
  return 0;
}
