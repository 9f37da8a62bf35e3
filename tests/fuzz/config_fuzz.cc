// config.json and the image documents: anything may be in them.
#include <cstdio>

#include "oci/image.h"
#include "oci/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto document = parse_json(text, "x"); document) {
    if (auto spec = oci::parse_spec(*document); spec) {
      // What was accepted must survive writing and reading.
      auto again = oci::parse_spec(oci::to_json(*spec));
      if (!again) {
        std::fprintf(stderr, "%s\n", again.error().message.c_str());
        __builtin_trap();
      }
    }
    (void)oci::parse_process(*document);
    (void)oci::parse_resources(*document);
  }
  (void)oci::parse_manifest(text, "x");
  (void)oci::parse_index(text, "x");
  (void)oci::parse_image_config(text, "x");
  return 0;
}
