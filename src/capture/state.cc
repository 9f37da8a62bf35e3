#include "capture/state.h"

#include <sys/stat.h>

#include "base/fd.h"
#include "base/strings.h"
#include "image/layer.h"

namespace caisson::capture {

StateFolders state_folders(const Trace& trace, const sys::RootDir& root) {
  StateFolders out;
  static const char* const tops[] = {"/var/lib/", "/var/log/", "/var/spool/", "/var/cache/", "/srv/", "/var/opt/", "/var/mail/", "/data/"};
  auto top_of = [](const std::string& path) -> std::string {
    for (const char* top : tops)
      if (path.starts_with(top)) {
        size_t end = path.find('/', std::string_view(top).size());
        return path.substr(0, end);
      }
    return {};
  };
  for (const auto& [path, use] : trace.paths) {
    if ((use & kWritten) == 0) continue;
    std::string clean = clean_path(path), top = top_of(clean);
    if (top.empty()) continue;
    // A file directly in /var/log or /srv has no folder of its own to keep.
    if (root.open_at(top, O_PATH | O_DIRECTORY)) out.try_emplace(top, false);
  }
  for (const auto& [path, use] : trace.paths) {
    // What is read and written, a database's file, is as much needed as what is only read.
    if ((use & kRead) == 0) continue;
    std::string clean = clean_path(path);
    auto it = out.find(top_of(clean));
    if (it == out.end() || it->second || it->first.starts_with("/var/log") || it->first.starts_with("/var/cache")) continue;
    struct stat st;
    if (auto file = root.open_at(clean, O_PATH); file && ::fstat(file->get(), &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) it->second = true;
  }
  return out;
}

Result<std::map<std::string, std::string>> save_state(const Trace& trace, const sys::RootDir& root, const std::string& scratch, bool all) {
  std::map<std::string, std::string> out;
  for (const auto& [folder, needed] : state_folders(trace, root)) {
    bool passing = folder.starts_with("/var/log/") || folder.starts_with("/var/cache/");
    if (!needed && (!all || passing)) continue;
    std::string archive = scratch + "/state." + std::to_string(out.size()) + ".tar";
    Fd from = TRY(root.open_at(folder, O_RDONLY | O_DIRECTORY)), file = TRY(open_file(archive, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    image::FdSink sink(file.get());
    image::TarWriter tar(sink);
    TRY(image::pack_folder(sys::fd_path(from.get()), tar, false), "copy " + folder);
    TRY(tar.finish());
    out[folder] = archive;
  }
  return out;
}

}  // namespace caisson::capture
