// COPY, ADD and WORKDIR.
#include <sys/stat.h>
#include <unistd.h>

#include "base/strings.h"
#include "build/builder_internal.h"
#include "build/download.h"
#include "build/git.h"
#include "sys/user_db.h"

namespace caisson::build {
namespace {

/// "user", "user:group", numbers or names of the image.
Result<std::pair<uint32_t, uint32_t>> owner_of(const sys::RootDir& image, const std::string& text) {
  size_t colon = text.find(':');
  auto number = [](const std::string& part) { return parse_uint(part, UINT32_MAX - 1); };
  std::string user = text.substr(0, colon);
  if (colon == std::string::npos) {
    if (auto id = number(user); id) return std::pair(static_cast<uint32_t>(*id), static_cast<uint32_t>(*id));
    auto entry = TRY(sys::resolve_user(image, user));
    return std::pair(entry.uid, entry.gid);
  }
  auto uid = user.empty() ? Result<uint64_t>(0) : number(user);
  return std::pair(uid ? static_cast<uint32_t>(*uid) : TRY(sys::resolve_user(image, user)).uid, TRY(sys::resolve_group(image, text.substr(colon + 1))));
}

}  // namespace

Result<> Builder::with_tree(const std::optional<std::string>& from, int before, const std::function<Result<>(const Tree&)>& work) {
  if (!from) return work({context_, &ignored_, false, "the build context"});
  image::Image image;
  if (int other = stages_.find(*from, before); other >= 0)
    image = TRY(stage(other))->image(store_.root());
  else
    image = TRY(worker_.image(*from), "--from=" + *from);
  std::string shown = "\"" + *from + "\"";
  if (image.manifest.layers.empty()) return fail("--from=" + *from + ": has no files", ENOENT);
  auto workspace = TRY(worker_.workspace(image, {}));
  return workspace->edit([&](const sys::RootDir& root) { return work({root, nullptr, true, shown}); });
}

Result<Piece> Builder::download(const Instruction& instruction, const std::string& address, const std::string& checksum) {
  Piece piece;
  piece.downloaded = worker_.scratch() + "/download." + std::to_string(files_++);
  Fd file = TRY(open_file(piece.downloaded, O_WRONLY | O_CREAT | O_EXCL, 0600));
  auto done = TRY(build::download(address, file.get()), "ADD");
  if (!checksum.empty() && checksum != done.digest.str()) return fail("ADD " + address + ": has the digest " + done.digest.str() + ", and --checksum says " + checksum, EBADMSG);
  piece.name = done.name;
  piece.mtime = done.mtime;
  if (piece.name.empty() && instruction.text.ends_with("/")) return fail("ADD " + address + ": the address names no file: give the destination's name", EINVAL);
  if (piece.name.empty()) piece.name = "download";
  return piece;
}

Result<> Builder::copy_step(const Instruction& instruction, State& state, int stage) {
  bool add = instruction.name == "ADD";
  auto is_set = [&](const char* flag) -> Result<bool> {
    auto value = instruction.flag(flag);
    if (!value) return false;
    if (*value != "" && *value != "true" && *value != "false") return fail("--" + std::string(flag) + "=" + *value + ": neither true nor false", EINVAL);
    return *value != "false";
  };
  bool parents = TRY(is_set("parents"));
  std::string exclude;
  if (auto list = instruction.flags.find("exclude"); list != instruction.flags.end())
    for (const auto& pattern : list->second) exclude += TRY(expand(pattern, state.lookup(), stages_.escape)) + "\n";
  IgnoreRules excluded = IgnoreRules::parse(exclude);
  auto lookup = state.lookup();
  std::vector<std::string> words;
  if (instruction.list)
    for (const auto& word : *instruction.list) words.push_back(TRY(expand(word, lookup, stages_.escape)));
  else
    words = TRY(expand_words(instruction.text, lookup, stages_.escape));
  if (words.size() < 2) return fail(instruction.name + " requires at least two arguments, a source and the destination", EINVAL);
  std::string to = words.back();
  words.pop_back();
  CopyTarget target{.path = state.absolute(to), .is_folder = to.ends_with("/") || to == "." || to.ends_with("/."), .owner = {}, .mode = {}, .unpack = add};
  target.is_folder = target.is_folder || parents;
  if (instruction.flag("unpack")) target.unpack = target.unpack_downloads = TRY(is_set("unpack"));
  std::string chown = instruction.flag("chown") ? TRY(expand(*instruction.flag("chown"), lookup, stages_.escape)) : "";
  if (auto chmod = instruction.flag("chmod"); chmod) {
    std::string mode = TRY(expand(*chmod, lookup, stages_.escape));
    if (mode.empty() || mode.size() > 5 || mode.find_first_not_of("01234567") != std::string::npos) return fail("--chmod=" + mode + ": only octal modes such as 755 are supported", ENOTSUP);
    target.mode = static_cast<uint32_t>(std::stoul(mode, nullptr, 8)) & 07777u;
  }
  std::string checksum = instruction.flag("checksum") ? TRY(expand(*instruction.flag("checksum"), lookup, stages_.escape)) : "";
  if (!checksum.empty()) TRY(oci::Digest::parse(checksum), "--checksum");

  std::vector<Piece> generated;
  std::vector<std::string> patterns;
  std::optional<GitSource> repository;
  bool keep_git_dir = TRY(is_set("keep-git-dir"));
  for (const auto& word : words) {
    auto heredoc = std::find_if(instruction.heredocs.begin(), instruction.heredocs.end(), [&](const Heredoc& h) { return word.starts_with("<<") && word.ends_with(h.name); });
    if (heredoc != instruction.heredocs.end() && !instruction.list) {
      Piece piece{.name = heredoc->name, .content = heredoc->content};
      if (heredoc->expand) piece.content = TRY(expand_plain(heredoc->content, lookup, stages_.escape));
      piece.mtime = options_.epoch.value_or(0);
      generated.push_back(std::move(piece));
    } else if (add && git_source(word)) {
      repository = git_source(word);
      if (words.size() > 1) return fail("ADD " + word + ": a repository is added alone", EINVAL);
    } else if (add && is_web_address(word)) {
      generated.push_back(TRY(download(instruction, word, checksum)));
    } else {
      patterns.push_back(word);
    }
  }
  if (words.size() > 1 && !target.is_folder) return fail("when using " + instruction.name + " with more than one source file, the destination must be a directory and end with a /", EINVAL);

  if (keep_git_dir && !repository) return fail("ADD: --keep-git-dir has no meaning without a repository", EINVAL);
  // Where and how, for whoever looks for the same step.
  auto described = [&](const std::string& content) { return Json{content, target.path, target.is_folder, chown, target.mode.value_or(010000), target.unpack, target.unpack_downloads}; };
  auto put = [&](Workspace& workspace, const Tree& tree, const std::vector<Piece>& pieces) {
    return workspace.edit([&](const sys::RootDir& image) -> Result<> {
      if (!chown.empty()) target.owner = TRY(owner_of(image, chown), "--chown=" + chown);
      return copy_pieces(tree, pieces, target, image, worker_.scratch());
    });
  };
  Writing writing;
  writing.created_by = instruction.str();
  if (repository) {
    if (!checksum.empty()) return fail("ADD: --checksum of a repository is not supported: name a commit (" + repository->url + "#COMMIT)", ENOTSUP);
    // Archives in it are files of it.
    target.unpack = false;
    // Its commit says what is in it, so that what is known is not fetched.
    std::string commit = TRY(find_commit(*repository), "ADD");
    writing.description = {{"repository", {described(commit), repository->url, repository->folder, keep_git_dir, exclude}}};
    writing.work = [&](Workspace& workspace) -> Result<> {
      auto root = TRY(sys::RootDir::open(TRY(check_out(*repository, worker_.scratch() + "/repository." + std::to_string(files_++), keep_git_dir, commit), "ADD")));
      Tree tree{root, nullptr, false, repository->url, exclude.empty() ? nullptr : &excluded};
      return put(workspace, tree, TRY(find_pieces(tree, {"."}, parents)));
    };
    return write_layer(std::move(writing), state);
  }

  auto copy = [&](const Tree& whole) -> Result<> {
    Tree tree{whole.root, whole.ignored, whole.keep_owners, whole.shown, exclude.empty() ? nullptr : &excluded};
    auto pieces = TRY(find_pieces(tree, patterns, parents));
    pieces.insert(pieces.end(), generated.begin(), generated.end());
    writing.description = {{"copy", described(TRY(digest_of(tree, pieces)))}};
    writing.work = [&](Workspace& workspace) { return put(workspace, tree, pieces); };
    return write_layer(std::move(writing), state);
  };
  return with_tree(instruction.flag("from"), stage, copy);
}

Result<> Builder::workdir_step(const Instruction& instruction, State& state) {
  state.config.working_dir = state.absolute(TRY(expand(instruction.text, state.lookup(), stages_.escape)));
  Writing writing;
  writing.description = {{"workdir", state.config.working_dir}};
  writing.created_by = instruction.str();
  writing.work = [&](Workspace& workspace) {
    return workspace.edit([&](const sys::RootDir& image) -> Result<> {
      TRY(image.make_dirs(state.config.working_dir));
      return {};
    });
  };
  return write_layer(std::move(writing), state);
}

}  // namespace caisson::build
