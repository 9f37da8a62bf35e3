#include "elements/embedded.h"

extern "C" {
extern const char caisson_clock_begin[], caisson_clock_end[], caisson_resources_begin[], caisson_resources_end[], caisson_sockets_begin[], caisson_sockets_end[];
}

namespace caisson::elements {

std::string_view library(std::string_view name) {
  if (name == "clock") return {caisson_clock_begin, static_cast<size_t>(caisson_clock_end - caisson_clock_begin)};
  if (name == "resources") return {caisson_resources_begin, static_cast<size_t>(caisson_resources_end - caisson_resources_begin)};
  if (name == "sockets") return {caisson_sockets_begin, static_cast<size_t>(caisson_sockets_end - caisson_sockets_begin)};
  return {};
}

}  // namespace caisson::elements
