// For programs that have not loaded the library, and make the calls of the network all the same.
#pragma once

namespace caisson::element::interception {

/// The process that serves them; never returns. See loop.cc.
[[noreturn]] void run();

}  // namespace caisson::element::interception
