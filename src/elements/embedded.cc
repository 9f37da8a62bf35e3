#include "elements/embedded.h"

#define LIBRARY(name) extern "C" const char caisson_##name##_begin[], caisson_##name##_end[];
LIBRARY(clock)
LIBRARY(files)
LIBRARY(network)
LIBRARY(resources)
LIBRARY(sockets)

namespace caisson::elements {

std::string_view library(std::string_view name) {
  auto between = [](const char* begin, const char* end) { return std::string_view(begin, static_cast<size_t>(end - begin)); };
  if (name == "clock") return between(caisson_clock_begin, caisson_clock_end);
  if (name == "files") return between(caisson_files_begin, caisson_files_end);
  if (name == "network") return between(caisson_network_begin, caisson_network_end);
  if (name == "resources") return between(caisson_resources_begin, caisson_resources_end);
  if (name == "sockets") return between(caisson_sockets_begin, caisson_sockets_end);
  return {};
}

}  // namespace caisson::elements
