#include "build/git.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/process.h"
#include "base/strings.h"
#include "build/download.h"
#include "sys/in_root.h"

namespace caisson::build {
namespace {

std::vector<std::string> environment() {
  std::vector<std::string> out;
  for (char** e = environ; *e != nullptr; ++e) out.emplace_back(*e);
  out.emplace_back("GIT_TERMINAL_PROMPT=0");
  return out;
}

/// What it prints; on a terminal where it shows how far it is, unless that is `wanted`.
Result<std::string> run_git(std::vector<std::string> args, bool wanted = false) {
  bool terminal = !wanted && ::isatty(STDERR_FILENO) == 1;
  SpawnOptions options;
  options.argv = {"git"};
  options.argv.insert(options.argv.end(), args.begin(), args.end());
  options.env = environment();
  Fd nothing = TRY(open_file("/dev/null", O_RDWR));
  options.stdin_fd = nothing.get();
  std::string what = "git " + *std::find_if(args.begin(), args.end(), [](const std::string& a) { return a != "-C" && !a.starts_with("/"); });
  Output done;
  if (terminal) {
    options.stdout_fd = STDERR_FILENO;
    auto child = spawn(options);
    if (!child && child.error().code == ENOENT) return fail("git is not installed, and a repository needs it", ENOENT);
    done.status = TRY(TRY(std::move(child)).wait());
  } else {
    auto ran = run_and_capture(options);
    if (!ran && ran.error().code == ENOENT) return fail("git is not installed, and a repository needs it", ENOENT);
    done = TRY(std::move(ran));
  }
  if (done.status.code == 0) return done.out;
  std::string why(trim(done.err));
  std::replace(why.begin(), why.end(), '\n', ' ');
  return fail(what + (why.empty() ? " failed" : ": " + why));
}

bool is_commit(const std::string& ref) { return ref.size() >= 40 && ref.find_first_not_of("0123456789abcdef") == std::string::npos; }

/// Its own, and those of its submodules, which are files.
Result<> remove_git_dirs(const std::string& folder) {
  TRY(remove_tree(folder + "/.git"));
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error))
    if (entry.path().filename() == ".git" && ::unlink(entry.path().c_str()) < 0) return fail_errno("remove " + entry.path().string());
  if (error) return fail("look through " + folder + ": " + error.message(), error.value());
  return {};
}

}  // namespace

std::optional<GitSource> git_source(const std::string& text, bool as_context) {
  size_t hash = text.find('#');
  GitSource out{text.substr(0, hash), "", ""};
  bool legacy = as_context && out.url.starts_with("github.com/");
  bool git = out.url.starts_with("git@") || out.url.starts_with("git://") || out.url.starts_with("ssh://") || (is_web_address(out.url) && out.url.ends_with(".git"));
  if (!git && !legacy) return {};
  if (legacy) out.url = "https://" + out.url;
  if (hash != std::string::npos) {
    std::string fragment = text.substr(hash + 1);
    size_t colon = fragment.find(':');
    out.ref = fragment.substr(0, colon);
    if (colon != std::string::npos) out.folder = fragment.substr(colon + 1);
  }
  return out;
}

namespace {

Result<> check_names(const GitSource& source) {
  // It would be an option of git's.
  if (source.ref.starts_with('-') || source.url.starts_with('-')) return fail("\"" + source.ref + "\" is no name of a branch, tag or commit", EINVAL);
  return {};
}

std::string shown(const GitSource& source) { return source.url + (source.ref.empty() ? "" : "#" + source.ref); }

}  // namespace

Result<std::string> find_commit(const GitSource& source) {
  TRY(check_names(source));
  if (is_commit(source.ref)) return source.ref;
  std::string ref = source.ref.empty() ? "HEAD" : source.ref;
  std::map<std::string, std::string> commits;
  for (const auto& line : split(TRY(run_git({"ls-remote", "--", source.url, ref, ref + "^{}"}, true), shown(source)), '\n', true))
    if (size_t tab = line.find('\t'); tab != std::string::npos && is_commit(line.substr(0, tab))) commits[line.substr(tab + 1)] = line.substr(0, tab);
  // As git fetch looks for them (gitrevisions(7)); what a tag with a text of its own is of, goes first.
  for (const char* prefix : {"", "refs/", "refs/tags/", "refs/heads/"})
    for (const char* peeled : {"^{}", ""})
      if (auto found = commits.find(prefix + ref + peeled); found != commits.end()) return found->second;
  return fail(shown(source) + ": there is no branch, tag or commit of that name", ENOENT);
}

Result<std::string> check_out(const GitSource& source, const std::string& place, bool keep_git_dir, const std::string& commit) {
  TRY(check_names(source));
  // Files are as a repository has them, whatever is made here otherwise.
  mode_t before = ::umask(022);
  auto all = [&]() -> Result<> {
    TRY(run_git({"init", "--quiet", place}));
    TRY(run_git({"-C", place, "remote", "add", "origin", source.url}));
    std::string ref = source.ref.empty() ? "HEAD" : source.ref;
    auto fetched = run_git({"-C", place, "fetch", "--depth", "1", "--no-tags", "--", "origin", ref});
    // Not every server gives a commit by its name; then it is in what the branches have.
    if (!fetched && is_commit(ref))
      TRY(run_git({"-C", place, "fetch", "--no-tags", "--", "origin", "+refs/heads/*:refs/remotes/origin/*"}));
    else
      TRY(std::move(fetched));
    TRY(run_git({"-C", place, "checkout", "--quiet", "--detach", is_commit(ref) ? ref : "FETCH_HEAD"}));
    if (!commit.empty() && trim(TRY(run_git({"-C", place, "rev-parse", "HEAD"}, true))) != commit) return fail(ref + " has just been moved to another commit: build again", EAGAIN);
    if (exists(place + "/.gitmodules")) TRY(run_git({"-C", place, "submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"}));
    if (!keep_git_dir) TRY(remove_git_dirs(place));
    return {};
  }();
  ::umask(before);
  TRY(std::move(all), shown(source));
  if (source.folder.empty()) return place;
  // Whoever made the repository may have put links in it.
  auto root = TRY(sys::RootDir::open(place));
  Fd folder = TRY(root.open_at(source.folder, O_PATH | O_DIRECTORY), source.url + ": " + source.folder);
  char path[4096];
  ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(folder.get())).c_str(), path, sizeof path);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof path)) return fail(source.url + ": " + source.folder + ": its path is too long", ENAMETOOLONG);
  return std::string(path, static_cast<size_t>(n));
}

}  // namespace caisson::build
