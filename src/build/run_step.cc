// RUN: a command in a container on top of the layers so far, with the mounts of BuildKit.
#include <sys/stat.h>
#include <unistd.h>

#include "base/strings.h"
#include "build/builder_internal.h"
#include "image/layer.h"

namespace caisson::build {
namespace {

/// "type=cache,target=/var/cache"
Result<std::map<std::string, std::string>> read_keys(const std::string& text, const std::set<std::string>& known) {
  std::map<std::string, std::string> out;
  for (const auto& field : split(text, ',', true)) {
    size_t equals = field.find('=');
    std::string key = lower_case(field.substr(0, equals)), value = equals == std::string::npos ? "true" : field.substr(equals + 1);
    if (key == "dst" || key == "destination") key = "target";
    if (key == "src") key = "source";
    if (key == "ro") key = "readonly";
    if (key == "rw") key = "readwrite";
    if (!known.contains(key)) return fail("unexpected key \"" + key + "\" in \"" + field + "\"", EINVAL);
    out[key] = value;
  }
  return out;
}

std::string value_of(const std::map<std::string, std::string>& keys, const std::string& key, const std::string& otherwise = "") {
  auto found = keys.find(key);
  return found == keys.end() ? otherwise : found->second;
}
bool is_true(const std::map<std::string, std::string>& keys, const std::string& key) {
  std::string value = value_of(keys, key, "false");
  return value == "true" || value == "1";
}

Result<uint32_t> id_of(const std::map<std::string, std::string>& keys, const std::string& key) {
  return static_cast<uint32_t>(TRY(parse_uint(value_of(keys, key, "0"), UINT32_MAX - 1), key));
}
Result<mode_t> mode_of(const std::map<std::string, std::string>& keys, mode_t otherwise) {
  std::string text = value_of(keys, "mode");
  if (text.empty()) return otherwise;
  if (text.find_first_not_of("01234567") != std::string::npos || text.size() > 5) return fail("mode: \"" + text + "\" is no octal number", EINVAL);
  return static_cast<mode_t>(std::stoul(text, nullptr, 8)) & 07777u;
}

}  // namespace

Result<> Builder::add_bind(const std::map<std::string, std::string>& keys, const State& state, int stage, Mounts& mounts) {
  // What is written there goes with the copy.
  bool writable = is_true(keys, "readwrite") || value_of(keys, "readonly") == "false";
  std::string from = value_of(keys, "from");
  std::string source = clean_path("/" + value_of(keys, "source", "/")), target = state.absolute(value_of(keys, "target"));
  // A copy, made for this build alone: nobody changes it meanwhile, and no link leads out of it.
  std::string copy = worker_.scratch() + "/bind." + std::to_string(files_++);
  std::string digest;
  TRY(with_tree(from.empty() ? std::nullopt : std::optional<std::string>(from), stage, [&](const Tree& tree) -> Result<> {
    auto pieces = TRY(find_pieces(tree, {source}));
    digest = TRY(digest_of(tree, pieces));
    TRY(make_dirs(copy, 0755));
    auto root = TRY(sys::RootDir::open(copy));
    CopyTarget to{.path = pieces[0].folder ? "/" : "/file", .is_folder = pieces[0].folder, .owner = {}, .mode = {}};
    if (!pieces[0].folder) copy += "/file";
    return copy_pieces(tree, pieces, to, root, worker_.scratch());
  }));
  mounts.command.mounts.push_back({"bind", copy, target, writable ? std::vector<std::string>{} : std::vector<std::string>{"ro"}});
  mounts.description["mounts"].push_back({"bind", target, digest, writable});
  return {};
}

Result<> Builder::add_cache(const std::map<std::string, std::string>& keys, const State& state, Mounts& mounts) {
  if (keys.contains("from")) return fail("from is not supported for type=cache", ENOTSUP);
  std::string target = state.absolute(value_of(keys, "target")), sharing = value_of(keys, "sharing", "shared");
  if (sharing != "shared" && sharing != "locked") return fail("sharing=" + sharing + " is not supported: shared and locked are", ENOTSUP);
  std::string folder = TRY(cache_.mount_folder(value_of(keys, "id", target)));
  if (sharing == "locked") mounts.locks.push_back(TRY(FileLock::acquire(folder + ".lock")));
  mode_t mode = TRY(mode_of(keys, 0755));
  if (::chown(folder.c_str(), TRY(id_of(keys, "uid")), TRY(id_of(keys, "gid"))) < 0 || ::chmod(folder.c_str(), mode) < 0) return fail_errno("cache " + target);
  mounts.command.mounts.push_back({"bind", folder, target, is_true(keys, "readonly") ? std::vector<std::string>{"ro"} : std::vector<std::string>{}});
  // What it holds is no part of what the step depends on.
  mounts.description["mounts"].push_back({"cache", target});
  return {};
}

Result<> Builder::add_secret(const std::map<std::string, std::string>& keys, Mounts& mounts) {
  std::string target = value_of(keys, "target"), id = value_of(keys, "id", std::string(base_name(target))), variable = value_of(keys, "env");
  if (id.empty()) return fail("type=secret needs an id or a target", EINVAL);
  mounts.description["mounts"].push_back({"secret", id, target, variable});
  auto given = options_.secrets.find(id);
  if (given == options_.secrets.end()) {
    if (is_true(keys, "required")) return fail("secret " + id + " is required: give it with --secret id=" + id + ",src=FILE", EINVAL);
    return {};
  }
  std::string content = TRY(read_file(given->second), "secret " + id);
  if (!variable.empty()) {
    set_variable(mounts.command.env, variable, content);
    if (target.empty()) return {};
  }
  if (target.empty()) target = "/run/secrets/" + id;
  std::string copy = worker_.scratch() + "/secret." + std::to_string(files_++);
  TRY(write_new_file(copy, content, 0600));
  if (::chown(copy.c_str(), TRY(id_of(keys, "uid")), TRY(id_of(keys, "gid"))) < 0 || ::chmod(copy.c_str(), TRY(mode_of(keys, 0400))) < 0) return fail_errno("secret " + id);
  mounts.command.mounts.push_back({"bind", copy, target, {"ro"}});
  return {};
}

Result<> Builder::add_mount(const std::string& text, const State& state, int stage, Mounts& mounts) {
  auto keys = TRY(read_keys(TRY(expand(text, state.lookup(), stages_.escape)), {"type", "target", "source", "from", "readonly", "readwrite", "id", "sharing", "uid", "gid", "mode", "required", "size", "env"}));
  std::string type = value_of(keys, "type", "bind");
  if (type != "bind" && type != "cache" && type != "secret" && type != "tmpfs") return fail("type=" + type + " is not supported: bind, cache, secret and tmpfs are", ENOTSUP);
  if (type != "secret" && value_of(keys, "target").empty()) return fail("type=" + type + " needs a target", EINVAL);
  if (type == "bind") return add_bind(keys, state, stage, mounts);
  if (type == "cache") return add_cache(keys, state, mounts);
  if (type == "secret") return add_secret(keys, mounts);
  std::string target = state.absolute(value_of(keys, "target")), size = value_of(keys, "size");
  mounts.command.mounts.push_back({"tmpfs", "", target, size.empty() ? std::vector<std::string>{} : std::vector<std::string>{"size=" + std::to_string(TRY(parse_size(size), "size"))}});
  mounts.description["mounts"].push_back({"tmpfs", target, size});
  return {};
}

Result<> Builder::run_step(const Instruction& instruction, State& state, int stage) {
  Writing writing;
  Work& command = writing.command;
  command.env = state.config.env;
  // What is set in the environment is stronger than an ARG of the same name.
  for (const auto& [name, value] : state.args)
    if (auto now = state.lookup()(name); now && *now == value) set_variable(command.env, name, value);
  // Docker's predefined ones need no ARG, and are no part of what a step depends on.
  for (const char* name : {"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"})
    if (auto given = options_.build_args.find(name); given != options_.build_args.end() && !state.lookup()(name)) set_variable(command.env, name, given->second);
  if (auto path = state.lookup()("PATH"); !path) set_variable(command.env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  command.cwd = state.cwd();
  command.user = state.config.user;
  command.network = instruction.flag("network").value_or(options_.network);
  if (instruction.flags.contains("security") || instruction.flags.contains("device")) return fail("RUN: --security and --device are not supported", ENOTSUP);

  writing.description = {{"run", Json::array()}, {"mounts", Json::array()}};
  Mounts mounts{command, writing.description, {}};
  if (auto asked = instruction.flags.find("mount"); asked != instruction.flags.end())
    for (const auto& text : asked->second) TRY(add_mount(text, state, stage, mounts), "--mount=" + text);

  std::string text = instruction.text;
  if (instruction.list) {
    command.args = *instruction.list;
  } else if (instruction.heredocs.size() == 1 && text.starts_with("<<") && text.find_first_of(" \t") == std::string::npos) {
    // The script is all there is.
    std::string script = instruction.heredocs[0].content;
    if (script.starts_with("#!")) {
      std::string file = worker_.scratch() + "/script." + std::to_string(files_++);
      TRY(write_new_file(file, script, 0755));
      std::string target = "/dev/pipes/" + instruction.heredocs[0].name;
      command.mounts.push_back({"bind", file, target, {"ro"}});
      command.args = {target};
    } else {
      command.args = state.in_shell(script);
    }
    text += "\n" + script;
  } else {
    for (const auto& heredoc : instruction.heredocs) text += "\n" + heredoc.content + heredoc.name;
    command.args = state.in_shell(text);
  }
  if (command.args.empty()) return fail("RUN: has no command", EINVAL);
  // A secret's value is no part of it.
  std::vector<std::string> known = state.config.env;
  for (const auto& [name, value] : state.args) known.push_back("ARG " + name + "=" + value);
  writing.description["run"] = {text, instruction.list.value_or(state.in_shell("")), known, command.cwd, command.user, command.network};
  writing.created_by = "RUN " + (instruction.list ? instruction.text : join(state.in_shell(text), " "));
  for (const auto& mount : command.mounts) writing.mount_points.push_back(mount.target);
  for (const char* path : {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc", "/sys", "/dev"}) writing.mount_points.emplace_back(path);
  std::string shown = join(command.args, " ");
  writing.work = [this, shown, &state](Workspace& workspace) -> Result<> {
    std::string last;
    int code = TRY(workspace.run([&](const std::string& line) {
      last = line;
      say(state, line);
    }));
    if (code != 0) return fail("the command '" + shown + "' returned a non-zero code: " + std::to_string(code) + (last.empty() ? "" : ": " + last));
    return {};
  };
  return write_layer(std::move(writing), state);
}

}  // namespace caisson::build
