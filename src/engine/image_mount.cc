#include "engine/image_mount.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "base/process.h"
#include "base/strings.h"
#include "sys/mount.h"

namespace caisson::engine {

namespace {

/// The descriptor of another process. Invalid where that process has ended: its number may be another's by now.
Fd descriptor_of(pid_t pid, uint64_t start_time, int number) {
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return {};
  auto started = process_start_time(pid);
  if (!started || *started != start_time) return {};
  return Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
}

}  // namespace

std::string ImageMounts::folder_of(const image::Lower& lower) const { return folder_ + "/" + std::string(base_name(lower.index)); }

Result<Fd> ImageMounts::get(const image::Lower& lower) const {
  for (const auto& name : list_dir(folder_of(lower)).value_or(std::vector<std::string>())) {
    auto parts = split(name, '.');
    if (parts.size() != 3) continue;
    auto pid = parse_uint(parts[0], INT32_MAX), start = parse_uint(parts[1]), number = parse_uint(parts[2], INT32_MAX);
    if (!pid || !start || !number) continue;
    Fd held = descriptor_of(static_cast<pid_t>(*pid), *start, static_cast<int>(*number));
    if (!held.valid()) {
      ::unlink((folder_of(lower) + "/" + name).c_str());
      continue;
    }
    // Linux before 6.15 copies only what is attached somewhere.
    if (auto copy = sys::clone_mount(held.get(), false)) return copy;
  }
  return image::mount_index(lower);
}

Result<> ImageMounts::offer(const image::Lower& lower, int mount) const {
  TRY(make_dirs(folder_of(lower), 0700));
  // Some are enough for one to be alive, and looking through them stays short.
  constexpr size_t kEnough = 4;
  if (TRY(list_dir(folder_of(lower))).size() >= kEnough) return {};
  std::string name = std::to_string(::getpid()) + "." + std::to_string(TRY(process_start_time(::getpid()))) + "." + std::to_string(mount);
  TRY(open_file(folder_of(lower) + "/" + name, O_WRONLY | O_CREAT, 0600));
  return {};
}

}  // namespace caisson::engine
