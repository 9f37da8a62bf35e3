// Queries to a container's name server.
#include "network/resolver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::network;
  (void)Resolver::answer(
      std::string_view(reinterpret_cast<const char*>(data), size), [](const std::string& name) { return name.size() % 2 == 0 ? std::optional<Addresses>({"10.0.0.1", "fd00::1"}) : std::nullopt; },
      [](const std::string&) { return std::string("name"); });
  return 0;
}
