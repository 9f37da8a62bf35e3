// caisson cp: files between the host and a container. Every path inside is
// resolved within the container's root by the kernel, and nothing of the
// container is executed or loaded (CVE-2018-15664, CVE-2019-14271).
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/container_root.h"
#include "image/layer.h"

namespace caisson::cli {
namespace {

using engine::Engine;

struct Place {
  std::string container, path;  ///< container "" is the host
};
Place parse_place(const std::string& text) {
  size_t colon = text.find(':');
  // "./a:b" and "/a:b" are paths of the host, as with docker cp.
  if (colon == std::string::npos || text[0] == '/' || text[0] == '.' || colon == 0) return {"", text};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

/// A root for one side: the container's, or the host's own "/".
Result<ContainerRoot> open_side(Engine& engine, const Place& place) {
  if (place.container.empty()) return ContainerRoot{TRY(sys::RootDir::open("/")), {}};
  auto container = TRY(engine.containers().find(place.container));
  return container_root(engine, container);
}

std::string absolute(const Place& place) {
  if (!place.container.empty() || place.path.starts_with("/")) return "/" + place.path;
  char buffer[4096];
  const char* cwd = ::getcwd(buffer, sizeof buffer);
  return std::string(cwd == nullptr ? "" : cwd) + "/" + place.path;
}

Result<> copy_tree(const sys::RootDir& from, const std::string& source, const sys::RootDir& to, const std::string& target) {
  bool content_only = source.ends_with("/.");
  std::string clean = clean_path(source);
  Fd node = TRY(from.open_at(clean, O_PATH), "source");
  struct stat st;
  if (::fstat(node.get(), &st) < 0) return fail_errno("source");
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) return fail("source " + clean + " is neither a file nor a folder");

  // Where it goes: into an existing folder under its own name, else to the
  // name given.
  std::string goal = clean_path(target), folder = goal, name(base_name(clean));
  auto existing = to.open_at(goal, O_PATH | O_DIRECTORY);
  if (!existing) {
    if (target.ends_with("/") && !S_ISDIR(st.st_mode)) return fail("folder " + goal + " does not exist");
    folder = dir_name(goal);
    name = base_name(goal);
    existing = to.open_at(folder, O_PATH | O_DIRECTORY);
    if (!existing) return detail::propagate(std::move(existing).error(), "target folder");
  } else if (content_only) {
    name.clear();
  }
  Fd tar_file(static_cast<int>(::memfd_create("copy", MFD_CLOEXEC)));
  if (!tar_file.valid()) return fail_errno("memfd");
  // Large trees go through the disk instead of memory.
  if (auto on_disk = open_file("/var/tmp", O_TMPFILE | O_RDWR, 0600); on_disk) tar_file = std::move(*on_disk);
  image::FdSink sink(tar_file.get());
  image::TarWriter tar(sink);
  if (name.empty()) {
    TRY(image::pack_folder(sys::fd_path(node.get()), tar, false));
  } else if (S_ISDIR(st.st_mode)) {
    // By its descriptor: links were followed once, inside the root.
    TRY(image::pack_node(node.get(), ".", name, tar));
  } else {
    image::TarEntry e;
    e.path = name;
    e.mode = st.st_mode & 07777;
    e.uid = st.st_uid;
    e.gid = st.st_gid;
    e.mtime = st.st_mtim.tv_sec;
    e.size = static_cast<uint64_t>(st.st_size);
    Fd file = TRY(from.open_at(clean, O_RDONLY | O_NONBLOCK));
    struct stat again;
    if (::fstat(file.get(), &again) < 0 || again.st_ino != st.st_ino || again.st_dev != st.st_dev) return fail("source " + clean + " changed while it was read");
    TRY(tar.add(e));
    image::FdSource source_file(file.get(), clean, 0, e.size);
    char buffer[65536];
    for (;;) {
      size_t n = TRY(source_file.read(buffer, sizeof buffer));
      if (n == 0) break;
      TRY(tar.data(std::string_view(buffer, n)));
    }
  }
  TRY(tar.finish());
  if (::lseek(tar_file.get(), 0, SEEK_SET) < 0) return fail_errno("seek");
  image::FdSource back(tar_file.get(), "copy");
  return image::unpack_layer(back, sys::fd_path(existing->get()), {.whiteouts = false});
}

Result<int> cmd_cp(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Place from = parse_place(args.rest()[0]), to = parse_place(args.rest()[1]);
  if (from.container.empty() == to.container.empty()) return fail("cp: one of the two must be CONTAINER:PATH, and the other a path of this host");
  if (from.path == "-" || to.path == "-") return fail("cp: tar streams (\"-\") are not supported; see \"caisson export\"");
  auto source = TRY(open_side(engine, from));
  auto target = TRY(open_side(engine, to));
  TRY(copy_tree(source.root, absolute(from), target.root, absolute(to)), "cp");
  return 0;
}

}  // namespace

const Command kCpCommand{"cp", "CONTAINER:PATH PATH | PATH CONTAINER:PATH", "copy files between a container and this host", "caisson cp web:/etc/nginx/nginx.conf .", {}, 2, 2, false, false, cmd_cp};

}  // namespace caisson::cli
