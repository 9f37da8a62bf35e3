#include "engine/image_mount.h"

#include <unistd.h>

#include "base/descriptor_record.h"
#include "base/strings.h"
#include "sys/mount.h"

namespace caisson::engine {

std::string ImageMounts::folder_of(const image::Lower& lower) const { return folder_ + "/" + std::string(base_name(lower.index)); }

Result<Fd> ImageMounts::get(const image::Lower& lower) const {
  for (const auto& name : list_dir(folder_of(lower)).value_or(std::vector<std::string>())) {
    Fd held = copy_descriptor(name);
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
  TRY(open_file(folder_of(lower) + "/" + TRY(descriptor_record(mount)), O_WRONLY | O_CREAT, 0600));
  return {};
}

}  // namespace caisson::engine
