// The process of a container that is its network's stack, where it has the element "network".
#pragma once

#include <string>

#include "base/fd.h"
#include "runtime/runtime.h"

namespace caisson::engine {

class NetworkStack {
 public:
  NetworkStack() = default;
  /// Makes the socket that programs ask on, `run_folder`/network/control, before they can start:
  /// what they ask meanwhile waits.
  [[nodiscard]] static Result<NetworkStack> prepare(const std::string& run_folder, Fd tap);
  /// Starts the process in the container, which is made and perhaps not started. It ends with it.
  /// The result tells when (pidfd).
  [[nodiscard]] Result<Fd> start(const runtime::Runtime& runtime, const std::string& id) &&;

 private:
  Fd tap_, control_;
};

}  // namespace caisson::engine
