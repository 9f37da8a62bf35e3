#include "engine/id_range.h"

#include "base/strings.h"

namespace caisson::engine {
namespace {
// Above what distributions give to users in /etc/subuid, below 2^31: where
// systemd keeps the ids of containers, too (its UIDS-GIDS document).
constexpr uint32_t kFirst = 0x10000000, kLast = 0x6fff0000;
constexpr uint32_t kRanges = (kLast - kFirst) / IdRange::kSize + 1;

Result<FileLock> lock_range(const std::string& run_root, uint32_t first) {
  std::string folder = run_root + "/ids";
  TRY(make_dirs(folder, 0700));
  return FileLock::try_acquire(folder + "/" + std::to_string(first));
}

struct Identity {
  std::string map;
  uint32_t size = 0;
};
/// Line by line: a line of the new map must lie within one of this.
Result<Identity> identity(const char* file) {
  Identity out;
  for (const auto& line : split(TRY(read_file(file)), '\n', true)) {
    auto fields = split(line, ' ', true);
    if (fields.size() != 3) return fail(std::string(file) + ": \"" + line + "\"");
    out.map += fields[0] + " " + fields[0] + " " + fields[2] + "\n";
    out.size += static_cast<uint32_t>(TRY(parse_uint(fields[2], UINT32_MAX), file));
  }
  return out;
}
}  // namespace

Result<IdRange> IdRange::take(const std::string& run_root, const std::string& container) {
  auto begin = static_cast<uint32_t>(std::hash<std::string>()(container) % kRanges);
  for (uint32_t i = 0; i < kRanges; ++i) {
    uint32_t first = kFirst + (begin + i) % kRanges * kSize;
    auto lock = lock_range(run_root, first);
    if (lock) return IdRange(first, std::move(*lock));
    if (lock.error().code != EWOULDBLOCK) return detail::propagate(std::move(lock).error(), "user ids");
  }
  return fail("all ranges of user ids are taken", EAGAIN);
}

Result<IdRange> IdRange::all() {
  IdRange out;
  auto users = TRY(identity("/proc/self/uid_map"));
  out.users_ = std::move(users.map);
  out.size_ = users.size;
  out.groups_ = TRY(identity("/proc/self/gid_map")).map;
  return out;
}

Result<uint32_t> IdRange::first_of(pid_t pid) {
  std::string path = "/proc/" + std::to_string(pid) + "/uid_map";
  auto fields = split(trim(TRY(read_file(path))), ' ', true);
  if (fields.size() < 3) return fail(path + ": empty");
  return static_cast<uint32_t>(TRY(parse_uint(fields[1], UINT32_MAX), path));
}

Result<IdRange> IdRange::of_process(const std::string& run_root, pid_t pid) {
  uint32_t first = TRY(first_of(pid));
  if (first == 0) return fail("no user namespace", ENOENT);
  return IdRange(first, TRY(lock_range(run_root, first)));
}

}  // namespace caisson::engine
