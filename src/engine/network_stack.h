// The processes of a container that are its network, where it has the element "network": the stack,
// and what asks it for programs that cannot load the element's library.
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"
#include "runtime/runtime.h"

namespace caisson::engine {

class NetworkStack {
 public:
  NetworkStack() = default;
  /// Makes the sockets that they are asked on before programs can start: what is asked meanwhile
  /// waits. `run_folder`/network/control is the stack's; interception() is the other's, and
  /// is not made where the container's `policy` has a listener: there is one at most.
  [[nodiscard]] static Result<NetworkStack> prepare(const std::string& run_folder, Fd tap, const std::optional<oci::Seccomp>& policy);
  struct Started {
    Fd stack, interceptor;  ///< pidfds, which tell when they have ended; none of the second where it is not wanted
  };
  /// Starts them in the container, which is made and perhaps not started. They end with it.
  [[nodiscard]] Result<Started> start(const runtime::Runtime& runtime, const std::string& id) &&;

  /// For runtime::LaunchOptions; "" where nothing of a container is intercepted.
  [[nodiscard]] static std::string interception(const std::string& run_folder);
  /// A note that libraries are not spared there (runtime::LaunchOptions::intercept_libraries).
  [[nodiscard]] static Result<> mark_libraries(const std::string& run_folder);
  [[nodiscard]] static bool has_libraries_mark(const std::string& run_folder);

 private:
  Fd tap_, control_, listeners_;
};

}  // namespace caisson::engine
