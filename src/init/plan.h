// What the runtime hands to the init that executes the application: one flat
// block, the last segment of the init's own program. Strings and tables are byte
// offsets from its start.
#pragma once

#include <stdint.h>

namespace caisson::init {

inline constexpr uint64_t kMagic = 0x31746e6973696163;  // "caisint1"

enum Flag : uint32_t {
  kNoNewPrivs = 1,
  kSetCapabilities = 2,
  kNewKeyring = 4,
  kNoProgram = 8,  ///< config.json has none: it can be created, and not started
};

struct Limit {
  uint32_t resource, pad;
  uint64_t soft, hard;
};

struct HookEntry {
  uint64_t path, argv, envp;  ///< argv and envp: tables of offsets, ended by 0
  int64_t timeout_seconds;    ///< 0: none
};

struct Plan {
  uint64_t magic, size;
  uint32_t flags;
  uint32_t uid, gid;
  uint32_t umask;  ///< above 0777: leave
  uint64_t bounding, effective, inheritable, permitted, ambient;
  uint64_t bounding_now;  ///< what the init starts with, or more
  int32_t sync_fd;        ///< socket to the runtime
  int32_t fifo_fd;        ///< exec.fifo, or -1
  uint32_t group_count;
  uint64_t groups;  ///< uint32_t[]
  uint64_t argv, envp;
  uint64_t cwd;
  uint64_t search_path;  ///< value of PATH
  uint64_t seccomp;      ///< sock_filter[]
  uint32_t seccomp_count, seccomp_flags;
  uint64_t listener;      ///< 1: send the seccomp listener over sync_fd
  uint64_t interception;  ///< sock_filter[] of a second one, which has a listener
  uint64_t interception_count;
  uint64_t limits;
  uint32_t limit_count, hook_count;
  uint64_t hooks;
  uint64_t state;            ///< state document for the hooks' stdin
  uint64_t ignored_signals;  ///< that the caller ignores: bit N-1 for signal N
};

// Messages on the sync socket, one byte each unless said otherwise.
inline constexpr char kReady = 'R';        ///< init → runtime: waiting, the program exists
inline constexpr char kPark = 'G';         ///< runtime → init: wait for exec.fifo
inline constexpr char kStart = 'S';        ///< runtime → init: go on at once
inline constexpr char kError = 'E';        ///< init → runtime: int32 errno, then text
inline constexpr char kListener = 'L';     ///< init → runtime: with the listener as SCM_RIGHTS
inline constexpr char kInterceptor = 'I';  ///< init → runtime: the same of the second filter
/// The sixth argument of the sendmsg(2), which has only three, by which a listener goes out: the
/// second filter lets it pass.
inline constexpr uint32_t kHandsOver = 0x63616973;

}  // namespace caisson::init
