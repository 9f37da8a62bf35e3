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
  if (place.container.empty()) return ContainerRoot{TRY(sys::RootDir::open("/")), {}, {}};
  auto container = TRY(engine.containers().find(place.container));
  return container_root(engine, container);
}

std::string absolute(const Place& place) {
  if (!place.container.empty() || place.path.starts_with("/")) return "/" + place.path;
  char buffer[4096];
  const char* cwd = ::getcwd(buffer, sizeof buffer);
  return std::string(cwd == nullptr ? "" : cwd) + "/" + place.path;
}

/// What is copied: one file or folder, held.
struct Source {
  const sys::RootDir& root;
  std::string path;  ///< clean
  Fd node;
  struct stat st;
  bool content_only;  ///< "FOLDER/.": what is in it, not itself
};

Result<Source> open_source(const sys::RootDir& root, const std::string& path) {
  Source source{root, clean_path(path), {}, {}, path.ends_with("/.")};
  source.node = TRY(root.open_at(source.path, O_PATH), "source");
  if (::fstat(source.node.get(), &source.st) < 0) return fail_errno("source");
  if (!S_ISDIR(source.st.st_mode) && !S_ISREG(source.st.st_mode)) return fail("source " + source.path + " is neither a file nor a folder");
  return source;
}

/// Writes it as a tar under that name; "": the content of the folder.
Result<> pack(const Source& source, const std::string& name, image::Sink& sink) {
  image::TarWriter tar(sink);
  if (name.empty()) {
    TRY(image::pack_folder(sys::fd_path(source.node.get()), tar));
  } else if (S_ISDIR(source.st.st_mode)) {
    // By its descriptor: links were followed once, inside the root.
    TRY(image::pack_node(source.node.get(), ".", name, tar));
  } else {
    Fd file = TRY(source.root.open_at(source.path, O_RDONLY | O_NONBLOCK));
    struct stat again;
    if (::fstat(file.get(), &again) < 0 || again.st_ino != source.st.st_ino || again.st_dev != source.st.st_dev) return fail("source " + source.path + " changed while it was read");
    TRY(image::pack_file(file.get(), name, tar));
  }
  return tar.finish();
}

Result<> copy_tree(const ContainerRoot& from, const std::string& path, const ContainerRoot& to, const std::string& target) {
  Source source = TRY(open_source(from.root, path));
  // Where it goes: into an existing folder under its own name, else to the
  // name given.
  std::string goal = clean_path(target), name(base_name(source.path));
  auto existing = to.root.open_at(goal, O_PATH | O_DIRECTORY);
  if (!existing) {
    if (target.ends_with("/") && !S_ISDIR(source.st.st_mode)) return fail("folder " + goal + " does not exist");
    name = base_name(goal);
    existing = to.root.open_at(dir_name(goal), O_PATH | O_DIRECTORY);
    if (!existing) return detail::propagate(std::move(existing).error(), "target folder");
  } else if (source.content_only) {
    name.clear();
  }
  Fd tar_file(static_cast<int>(::memfd_create("copy", MFD_CLOEXEC)));
  if (!tar_file.valid()) return fail_errno("memfd");
  // Large trees go through the disk instead of memory.
  if (auto on_disk = open_file("/var/tmp", O_TMPFILE | O_RDWR, 0600); on_disk) tar_file = std::move(*on_disk);
  image::FdSink sink(tar_file.get());
  TRY(from.inside([&]() -> Result<> { return pack(TRY(open_source(from.root, path)), name, sink); }));
  if (::lseek(tar_file.get(), 0, SEEK_SET) < 0) return fail_errno("seek");
  image::FdSource back(tar_file.get(), "copy");
  return to.inside([&]() -> Result<> { return image::unpack_layer(back, sys::fd_path(existing->get()), {.whiteouts = false}); });
}

/// "cp CONTAINER:PATH -": a tar of it to standard output.
Result<> copy_out(const ContainerRoot& from, const std::string& path) {
  if (::isatty(STDOUT_FILENO)) return fail("a tar archive is not for a terminal: redirect the output");
  image::FdSink sink(STDOUT_FILENO);
  return from.inside([&]() -> Result<> {
    Source source = TRY(open_source(from.root, path));
    return pack(source, source.content_only ? "" : std::string(base_name(source.path)), sink);
  });
}

/// "cp - CONTAINER:PATH": unpacks a tar from standard input into a folder.
Result<> copy_in(const ContainerRoot& to, const std::string& path) {
  Fd folder = TRY(to.root.open_at(clean_path(path), O_PATH | O_DIRECTORY), "target folder");
  image::FdSource archive(STDIN_FILENO, "standard input");
  return to.inside([&]() -> Result<> { return image::unpack_layer(archive, sys::fd_path(folder.get()), {.whiteouts = false}); });
}

Result<int> cmd_cp(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Place from = parse_place(args.rest()[0]), to = parse_place(args.rest()[1]);
  if (from.container.empty() == to.container.empty()) return fail("cp: one of the two must be CONTAINER:PATH, and the other a path of this host");
  if (to.container.empty() && to.path == "-") {
    TRY(copy_out(TRY(open_side(engine, from)), absolute(from)), "cp");
    return 0;
  }
  if (from.container.empty() && from.path == "-") {
    TRY(copy_in(TRY(open_side(engine, to)), absolute(to)), "cp");
    return 0;
  }
  auto source = TRY(open_side(engine, from));
  auto target = TRY(open_side(engine, to));
  TRY(copy_tree(source, absolute(from), target, absolute(to)), "cp");
  return 0;
}

}  // namespace

const Command kCpCommand{"cp", "CONTAINER:PATH PATH|- | PATH|- CONTAINER:PATH", "copy files between a container and this host; - is a tar archive", "caisson cp web:/etc/nginx/nginx.conf .", {}, 2, 2, false, false, cmd_cp};

}  // namespace caisson::cli
