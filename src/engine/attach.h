// The conversation between a monitor and those who look at its container:
// SOCK_SEQPACKET messages of one type byte and its data.
#pragma once

#include <cstddef>

namespace caisson::engine {

inline constexpr size_t kAttachMessage = 32768;

// monitor → client
inline constexpr char kStdout = 'o';
inline constexpr char kStderr = 'e';
inline constexpr char kExited = 'x';  ///< int32 exit code; the last message
// client → monitor
inline constexpr char kStdin = 'i';
inline constexpr char kCloseStdin = 'c';
inline constexpr char kWindowSize = 'w';  ///< two uint16: rows, columns
inline constexpr char kSignal = 's';      ///< int32

}  // namespace caisson::engine
