#include "capture/state.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <set>

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
    TRY(image::pack_folder(sys::fd_path(from.get()), tar), "copy " + folder);
    TRY(tar.finish());
    out[folder] = archive;
  }
  return out;
}

namespace {
/// Hands each entry of an archive to `use`, with its content where that is no longer than
/// any secret.
Result<> for_each_entry(const std::string& archive, const std::function<Result<>(image::TarReader&, image::TarEntry&, const std::string& text)>& use) {
  constexpr uint64_t kLongest = 1u << 20;
  Fd file = TRY(open_file(archive, O_RDONLY));
  image::FdSource source(file.get(), archive);
  image::TarReader reader(source);
  image::TarEntry e;
  while (TRY(reader.next(e))) {
    std::string text;
    if (e.type == image::EntryType::file && e.size <= kLongest) {
      text.resize(e.size);
      for (size_t at = 0; at < text.size();) at += TRY(reader.read_data(text.data() + at, text.size() - at));
    }
    TRY(use(reader, e, text));
  }
  return {};
}
}  // namespace

Result<std::vector<Secret>> drop_secrets(const std::string& folder, const std::string& archive, const std::vector<std::string>& allowed) {
  std::vector<Secret> out;
  std::set<std::string> dropped;
  TRY(for_each_entry(archive, [&](image::TarReader&, image::TarEntry& e, const std::string& text) -> Result<> {
    std::string path = folder + "/" + e.path;
    if (e.type != image::EntryType::file || std::find(allowed.begin(), allowed.end(), path) != allowed.end()) return {};
    if (std::string why = secret_reason(path, S_IFREG | e.mode, text); !why.empty() && e.size > 0) {
      out.push_back({path, why});
      dropped.insert(e.path);
    }
    return {};
  }));
  if (out.empty()) return out;
  std::string draft = archive + ".clean";
  Fd file = TRY(open_file(draft, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  image::FdSink sink(file.get());
  image::TarWriter tar(sink);
  std::vector<char> buffer(1u << 17);
  TRY(for_each_entry(archive, [&](image::TarReader& reader, image::TarEntry& e, const std::string& text) -> Result<> {
    if (dropped.contains(e.path) || (e.type == image::EntryType::hard_link && dropped.contains(e.link))) return {};
    TRY(tar.add_file(e, text));
    for (size_t n; (n = TRY(reader.read_data(buffer.data(), buffer.size()))) > 0;) TRY(tar.data(std::string_view(buffer.data(), n)));
    return {};
  }));
  TRY(tar.finish());
  if (::rename(draft.c_str(), archive.c_str()) < 0) return fail_errno("rename " + draft);
  return out;
}

}  // namespace caisson::capture
