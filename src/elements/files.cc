// The element "files": what is asked of it, and the mounts that carry it.
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "caisson/element.h"
#include "elements/elements.h"
#include "elements/package.h"

namespace caisson::elements {
namespace {

constexpr const char* kUsage = "files: write PACKAGE,at=FOLDER, then copy-on-write or copy-on-write=FOLDER, key=FILE, size=BYTES";
/// In a copy-on-write folder: the package that it belongs to. The element shows no such names.
constexpr const char* kBelongsTo = ".caisson.package";

bool is_below(const std::string& path, const std::string& folder) { return folder == "/" || (path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/'); }

/// Files appear whole (O_TMPFILE), and are told by times that are far ahead (elements/files/tree.h).
Result<> check_file_system(const std::string& folder) {
  constexpr time_t kAhead = 12'884'901'888;
  Fd file = TRY(open_file(folder, O_TMPFILE | O_RDWR, 0600), "copy-on-write: its file system makes no files without a name");
  struct timespec times[2] = {{kAhead, 0}, {0, UTIME_OMIT}};
  struct stat st;
  if (::futimens(file.get(), times) < 0 || ::fstat(file.get(), &st) < 0) return fail_errno("copy-on-write: " + folder);
  if (st.st_atim.tv_sec != kAhead) return fail("copy-on-write: " + folder + ": its file system keeps no times of the year 2378, by which files are told; use another, such as ext4 with inodes of 256 bytes, xfs with bigtime, btrfs or tmpfs", ENOTSUP);
  return {};
}

/// The folder with the changes, once it is known to be this package's.
Result<> check_folder(const std::string& folder, const OpenPackage& package) {
  TRY(make_dirs(folder), "copy-on-write");
  TRY(check_file_system(folder));
  // Several containers may begin at once.
  Fd held = TRY(open_file(folder, O_RDONLY | O_DIRECTORY), "copy-on-write");
  if (::flock(held.get(), LOCK_EX) < 0) return fail_errno("copy-on-write: " + folder);
  std::string mark = folder + "/" + kBelongsTo;
  if (auto owner = read_file(mark, 4096)) {
    if (trim(*owner) != package.identity()) return fail("copy-on-write: " + folder + ": it has the changes to another package", EEXIST);
    return {};
  }
  for (const auto& name : TRY(list_dir(folder), "copy-on-write"))
    if (name != "lost+found" && !name.starts_with(kBelongsTo)) return fail("copy-on-write: " + folder + ": it is neither empty nor a folder with the changes to a package", ENOTEMPTY);
  return write_file_durably(mark, package.identity() + "\n", 0444);
}

}  // namespace

Result<FilesOptions> parse_files(const std::string& options) {
  FilesOptions out;
  bool first = true;
  for (const auto& word : split(options, ',')) {
    auto value = [&](std::string_view name, std::string& to) {
      if (!word.starts_with(name)) return false;
      to = word.substr(name.size());
      return !to.empty();
    };
    if (first)
      out.package = word;
    else if (value("at=", out.at) || value("key=", out.key) || value("size=", out.size))
      ;
    else if (word == "copy-on-write" || value("copy-on-write=", out.folder))
      out.copy_on_write = true;
    else
      return fail("files: unknown option \"" + word + "\": " + kUsage, EINVAL);
    first = false;
  }
  if (out.package.empty() || out.at.empty()) return fail(kUsage, EINVAL);
  if (!out.at.starts_with('/') || clean_path(out.at) == "/") return fail("files: at=" + out.at + ": write an absolute path that is not /", EINVAL);
  out.at = clean_path(out.at);
  constexpr size_t kLongest = 1000;
  if (out.at.size() > kLongest || out.at.find('\n') != std::string::npos) return fail("files: at=" + printable(out.at) + ": not a path that can be mounted", EINVAL);
  if (!out.folder.empty() && !out.folder.starts_with('/')) return fail("files: copy-on-write=" + out.folder + ": write an absolute path", EINVAL);
  if (!out.folder.empty() && !out.size.empty()) return fail("files: size is for changes in memory, and copy-on-write names a folder", EINVAL);
  if (!out.size.empty()) TRY(parse_size(out.size), "files: size");
  return out;
}

std::string with_whole_paths(const std::string& text, const std::string& folder) {
  constexpr std::string_view kName = "files=", kKey = "key=";
  if (!text.starts_with(kName)) return text;
  auto words = split(text, ',');
  for (auto& word : words) {
    size_t value = word.starts_with(kName) ? kName.size() : word.starts_with(kKey) ? kKey.size()
                                                                                   : 0;
    if (value > 0 && value < word.size() && word[value] != '/') word.insert(value, folder + "/");
  }
  return join(words, ",");
}

Result<std::string> add_files(const std::string& options, oci::Spec& spec) {
  auto asked = TRY(parse_files(options));
  std::string key = asked.key.empty() ? "" : TRY(read_key(asked.key), "element files");
  auto package = TRY(OpenPackage::open(asked.package, key), "element files");
  struct stat st;
  if (::stat(asked.package.c_str(), &st) < 0) return fail_errno("element files: " + asked.package);
  // It is read by whoever the application runs as.
  if ((st.st_mode & S_IROTH) == 0) return fail("element files: " + asked.package + ": not readable by everybody, as the container's users need it (chmod o+r)", EACCES);

  bool own_users = std::any_of(spec.linux.namespaces.begin(), spec.linux.namespaces.end(), [](const oci::Namespace& n) { return n.type == "user"; });
  oci::Mount tree{asked.at, "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=0755"}, {}, {}};
  if (asked.folder.empty()) {
    // All of it may be written out; what it takes is the container's memory.
    constexpr uint64_t kEach = 4096, kMore = 16u << 20;
    tree.options.push_back("size=" + std::to_string(asked.size.empty() ? package.content_size() + package.entries() * kEach + kMore : TRY(parse_size(asked.size))));
    tree.options.push_back("uid=" + std::to_string(spec.process->user.uid));
    tree.options.push_back("gid=" + std::to_string(spec.process->user.gid));
  } else {
    TRY(check_folder(asked.folder, package), "element files");
    tree = {asked.at, "bind", asked.folder, {"bind", "rw", "nosuid", "nodev"}, {}, {}};
    if (own_users) tree.options.emplace_back("idmap");
  }
  // Who cannot give files away has them all.
  std::string owner;
  if (asked.folder.empty() && spec.process->user.uid != 0) owner = "uid " + std::to_string(spec.process->user.uid) + "\ngid " + std::to_string(spec.process->user.gid) + "\n";
  bool mounts = false;
  auto place = spec.mounts.end();
  for (auto m = spec.mounts.begin(); m != spec.mounts.end(); ++m) {
    std::string at = clean_path(m->destination);
    if (at == asked.at) return fail("element files: at=" + asked.at + ": something else is mounted there", EBUSY);
    if (!is_below(at, asked.at)) continue;
    // Volumes inside the tree come on top of it.
    if (!mounts) place = m;
    mounts = true;
  }
  spec.mounts.insert(place, std::move(tree));
  oci::Mount image{CAISSON_ELEMENT_PACKAGE, "bind", asked.package, {"bind", "ro", "nosuid", "nodev", "noexec"}, {}, {}};
  spec.mounts.push_back(std::move(image));
  return "abi 1\nat " + asked.at + "\npackage " + CAISSON_ELEMENT_PACKAGE + "\nwritable " + (asked.copy_on_write ? "1" : "0") + "\nmounts " + (mounts ? "1" : "0") + "\n" + owner + (key.empty() ? "" : "key " + key + "\n");
}

}  // namespace caisson::elements
