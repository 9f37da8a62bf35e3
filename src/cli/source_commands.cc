// Commands between a capture and the machine that it came from: diff, restore-data.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/fd.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "capture/process_info.h"
#include "capture/source_diff.h"
#include "cli/commands.h"
#include "cli/container_root.h"
#include "engine/engine.h"
#include "image/layer.h"

namespace caisson::cli {
namespace {

Result<int> cmd_diff(const Globals& globals, const Args& args) {
  if (std::string f = args.get("format", "table"); f != "table" && f != "json") return fail("--format: \"" + f + "\" is neither table nor json");
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  const std::string& name = args.rest()[0];
  auto changes = TRY(capture::changes_since(TRY(store.find(name)), store), name);
  if (args.get("format") == "json") {
    Json out = Json::array();
    for (const auto& c : changes) out.push_back({{"kind", std::string(1, c.kind)}, {"path", c.path}, {"what", c.what}});
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  for (const auto& c : changes) std::printf("%c %s%s\n", c.kind, c.path.c_str(), c.kind == 'C' ? ("  (" + c.what + ")").c_str() : "");
  return 0;
}

constexpr Option kDiffOptions[] = {
    {"--format", "table|json", "how to print"},
};

/// A process of this machine that has a file of the folder open; "" where none has.
std::string user_of(const std::string& folder) {
  auto pids = list_dir("/proc");
  if (!pids) return {};
  for (const auto& pid : *pids) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    auto fds = list_dir("/proc/" + pid + "/fd");
    if (!fds) continue;
    for (const auto& fd : *fds)
      if (capture::link_target("/proc/" + pid + "/fd/" + fd).starts_with(folder + "/")) return std::string(trim(read_file("/proc/" + pid + "/comm").value_or("a process"))) + " (process " + pid + ")";
  }
  return {};
}

/// Where a stopped container keeps a folder: in a volume or a bind, or among its own files.
struct Kept {
  std::string mounted;  ///< path on this machine; "" where it is none
};

Result<Kept> where_kept(engine::Engine& engine, const engine::Container& container, const std::string& folder) {
  for (const auto& m : container.config.mounts) {
    if (m.target != folder) continue;
    if (m.type == "tmpfs") return fail(folder + " was in memory, and is gone");
    return Kept{m.type == "volume" ? TRY(engine.volumes().find(m.source)).mountpoint : m.source};
  }
  return Kept{};
}

/// Drafts of restores that were killed half-way: never anything else has such a name.
void remove_drafts(const std::string& folder) {
  auto names = list_dir(dir_name(folder));
  if (!names) return;
  for (const auto& name : *names)
    if (std::string path = dir_name(folder) + "/" + name; path.starts_with(folder + ".restore-")) (void)remove_tree(path);
}

/// A whole copy of a folder under another name.
Result<> copy_folder(int from, const std::string& to) {
  struct stat st;
  if (::fstat(from, &st) < 0 || ::mkdir(to.c_str(), 0700) < 0) return fail_errno("make " + to);
  Fd file(::open(dir_name(to).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) return fail_errno("make a temporary file beside " + to);
  image::FdSink sink(file.get());
  image::TarWriter tar(sink);
  TRY(image::pack_folder("/proc/self/fd/" + std::to_string(from), tar));
  TRY(tar.finish());
  if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno("read the copy");
  image::FdSource source(file.get(), to);
  TRY(image::unpack_layer(source, to, {.whiteouts = false}));
  if (::chown(to.c_str(), st.st_uid, st.st_gid) < 0 || ::chmod(to.c_str(), st.st_mode & 07777) < 0) return fail_errno(to);
  Fd whole = TRY(open_file(to, O_RDONLY | O_DIRECTORY));
  if (::syncfs(whole.get()) < 0) return fail_errno("sync " + to);
  return {};
}

/// Puts a copy of `from` in the place of the folder on this machine, at one stroke. What was
/// there stays beside it; its name is returned ("" where nothing was there).
Result<std::string> replace_folder(int from, const std::string& folder) {
  remove_drafts(folder);
  std::string draft = folder + ".restore-" + random_hex(6);
  Rollback undo;
  undo.on_failure([&] { (void)remove_tree(draft); });
  TRY(copy_folder(from, draft));
  if (!exists(folder)) {
    if (::rename(draft.c_str(), folder.c_str()) < 0) return fail_errno("rename " + draft);
    undo.keep();
    return std::string();
  }
  // Under its last name first, so that a kill at any point leaves both, each whole.
  char moment[32];
  time_t now = ::time(nullptr);
  struct tm fields;
  std::strftime(moment, sizeof moment, "%Y%m%d-%H%M%S", ::gmtime_r(&now, &fields));
  std::string before = folder + ".before-" + moment;
  if (::renameat2(AT_FDCWD, draft.c_str(), AT_FDCWD, before.c_str(), RENAME_NOREPLACE) < 0) return fail_errno("rename " + draft + " to " + before);
  undo.on_failure([&] { (void)remove_tree(before); });
  if (::renameat2(AT_FDCWD, before.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) < 0)
    return fail_errno(errno == EBUSY || errno == EXDEV ? folder + " is a file system of its own, which cannot be replaced" : "replace " + folder);
  undo.keep();
  return before;
}

Result<int> cmd_restore_data(const Globals& globals, const Args& args) {
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  auto container = TRY(engine.containers().find(args.rest()[0]));
  const std::string& name = container.config.name;
  if (container.status.state == "running") return fail(name + " runs: stop it first, so that its data is at rest");
  auto label = container.config.labels.find(capture::kCapturedLabel);
  if (label == container.config.labels.end()) return fail(name + " is of no image that was captured on a machine");
  Json known = TRY(parse_json(label->second, std::string("label ") + capture::kCapturedLabel));
  std::vector<std::string> folders(args.rest().begin() + 1, args.rest().end());
  auto all = known["state"].get<std::vector<std::string>>();
  for (const auto& folder : folders)
    if (std::find(all.begin(), all.end(), folder) == all.end()) return fail(folder + " is no data of " + name + "; it has " + join(all, ", "));
  if (folders.empty()) folders = all;
  if (folders.empty()) return fail(name + " has no data of its own");
  for (const auto& folder : folders)
    if (std::string user = user_of(folder); !user.empty() && !args.flag("force")) return fail(folder + " is in use by " + user + ": stop it first, or give --force");
  auto root = TRY(container_root(engine, container, View::own_files));
  for (const auto& folder : folders) {
    Kept kept = TRY(where_kept(engine, container, folder), name);
    Fd from = TRY(kept.mounted.empty() ? root.root.open_at(folder, O_RDONLY | O_DIRECTORY) : open_file(kept.mounted, O_RDONLY | O_DIRECTORY), name + ": " + folder);
    if (args.flag("dry-run")) {
      std::printf("%s\n", folder.c_str());
      continue;
    }
    std::string before = TRY(replace_folder(from.get(), folder), "restore " + folder);
    std::printf("%s\n", folder.c_str());
    if (!before.empty()) std::fprintf(stderr, "what was in %s is now in %s\n", folder.c_str(), before.c_str());
  }
  return 0;
}

constexpr Option kRestoreOptions[] = {
    {"--dry-run", "", "only say which folders would be replaced"},
    {"-f,--force", "", "also where a process of this machine has files in them open"},
};

}  // namespace

const Command kDiffCommand{"diff", "IMAGE", "what has changed on this machine since an image was captured", "caisson diff shop:1.0", kDiffOptions, 1, 1, false, false, cmd_diff, 1, true};
const Command kRestoreDataCommand{"restore-data", "CONTAINER [FOLDER…]", "copy the data of a captured application back to where it came from", "caisson stop shop && caisson restore-data shop", kRestoreOptions, 1, SIZE_MAX, false, false, cmd_restore_data, 1, true};

}  // namespace caisson::cli
