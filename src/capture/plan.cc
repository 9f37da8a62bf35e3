#include "capture/plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "base/strings.h"
#include "base/yaml.h"

namespace caisson::capture {
namespace {

constexpr const char* kKeys[] = {"plan", "target", "command", "user", "working_directory", "environment", "left_out_environment", "forking", "ports", "processes", "runtime_directories", "state", "secrets", "unsure", "files"};

/// Folders stand in a plan only where nothing in them does.
std::set<std::string> folders_with_content(const FileSet& files) {
  std::set<std::string> out;
  for (const auto& [path, item] : files.items())
    for (std::string above = dir_name(path); above.size() > 1 && out.insert(above).second; above = dir_name(above)) {
    }
  return out;
}

Result<std::vector<std::string>> strings(const Json& document, const char* key) {
  std::vector<std::string> out;
  if (!document.contains(key) || document[key].is_null()) return out;
  if (!document[key].is_array()) return fail(std::string(key) + ": give a list");
  for (const auto& item : document[key]) {
    if (!item.is_string()) return fail(std::string(key) + ": " + json_text(item) + " is no text; put it into quotes");
    out.push_back(item.get<std::string>());
  }
  return out;
}

}  // namespace

std::string plan_text(const Plan& target, const Seen& seen, const FileSet& files, const std::vector<std::string>& unsure) {
  std::string out = "# What caisson capture would take. Change what you like, then:\n#   caisson capture --plan FILE --tag NAME\n";
  auto part = [&](const std::string& comment, const Json& content) { out += (comment.empty() ? "" : "\n# " + comment + "\n") + yaml_text(content); };
  part("", {{"plan", 1}});
  part("What was looked at, and is looked at again for the capture.", {{"target", target.target_kind == "command" ? Json{{"command", true}} : Json{{target.target_kind, target.target}}}});
  part("How it is started (" + seen.entry.how + ").", {{"command", seen.entry.argv}});
  part("", {{"user", std::to_string(seen.entry.uid) + ":" + std::to_string(seen.entry.gid)}});
  part("", {{"working_directory", seen.entry.cwd}});
  part("", {{"environment", seen.entry.env}});
  if (!seen.entry.secret_variables.empty()) part("Variables that look like secrets: they are handed in when the image is run.", {{"left_out_environment", seen.entry.secret_variables}});
  part("Whether the first process leaves, and a daemon stays.", {{"forking", seen.entry.forking}});
  Json ports = Json::array();
  for (const auto& p : seen.ports) ports.push_back(std::to_string(p.number) + "/" + p.protocol);
  ports.erase(std::unique(ports.begin(), ports.end()), ports.end());
  part("Ports that it listens on.", {{"ports", ports}});
  Json processes = Json::array();
  for (const auto& p : seen.processes) processes.push_back({{"pid", p.pid}, {"user", host_user(p.uid).name}, {"command", p.title.substr(0, p.title.find('\0') == std::string::npos ? 200 : p.title.find('\0'))}, {"program", p.exe}});
  if (!processes.empty()) part("Its processes while it was looked at; only for you to see.", {{"processes", processes}});
  part("Folders that are made for it in /run.", {{"runtime_directories", seen.entry.runtime_folders}});
  Json state = Json::object();
  for (const auto& [folder, needed] : seen.state_folders) state[folder] = seen.state.contains(folder) ? "copy" : "empty";
  part("Folders that it writes: copy (their content is in the image), empty, or volume (empty, and a\n# volume even if the rules would make none).", {{"state", state}});
  Json secrets = Json::array();
  for (const auto& s : files.secrets()) secrets.push_back({{"path", s.path}, {"why", s.why}, {"include", false}});
  part("Files that look like secrets. They stay out, unless include is true.", {{"secrets", secrets}});
  if (!unsure.empty()) part("What it is unsure of.", {{"unsure", unsure}});
  std::map<std::string, std::vector<std::string>> groups;
  auto full = folders_with_content(files);
  for (const auto& [path, item] : files.items())
    if (!S_ISDIR(item.st.st_mode) || !full.contains(path)) groups[item.rule + ": " + item.reason].push_back(path);
  part("Each file, under the reason why it is taken. Take a line out, or add one under a reason of\n# your own; links, loaders and libraries that a file needs come by themselves.", {{"files", groups}});
  return out;
}

Result<Plan> parse_plan(const std::string& text, const std::string& file) {
  Json document = TRY(parse_yaml(text, file));
  if (!document.is_object() || !document.contains("plan")) return fail(file + ": not a plan of caisson analyze");
  for (const auto& item : document.items())
    if (std::find(std::begin(kKeys), std::end(kKeys), item.key()) == std::end(kKeys)) return fail(file + ": unknown key \"" + item.key() + "\"");
  if (document["plan"] != 1) return fail(file + ": plan: this version reads plans of version 1");
  Plan plan;
  const Json target = document.value("target", Json::object());
  for (const auto& item : target.items()) {
    plan.target_kind = item.key();
    plan.target = item.value().is_string() ? item.value().get<std::string>() : json_text(item.value());
  }
  static const std::set<std::string> kinds{"service", "pid", "package", "command"};
  if (!kinds.contains(plan.target_kind)) return fail(file + ": target: give one of service, pid, package and command");
  plan.command = TRY(strings(document, "command"), file);
  if (plan.command.empty()) return fail(file + ": command: give the command that starts the application");
  plan.env = TRY(strings(document, "environment"), file);
  plan.runtime_folders = TRY(strings(document, "runtime_directories"), file);
  plan.ports = TRY(strings(document, "ports"), file);
  auto text_of = [&](const char* key, const char* fallback) -> Result<std::string> {
    if (!document.contains(key)) return std::string(fallback);
    if (!document[key].is_string()) return fail(file + ": " + key + ": give a text");
    return document[key].get<std::string>();
  };
  plan.user = TRY(text_of("user", "0:0"));
  plan.cwd = TRY(text_of("working_directory", "/"));
  if (document.contains("forking") && !document["forking"].is_boolean()) return fail(file + ": forking: give true or false");
  plan.forking = document.value("forking", false);
  const Json none = Json::object();
  const Json& state = document.contains("state") ? document["state"] : none;
  if (!state.is_object()) return fail(file + ": state: give folders with copy, empty or volume");
  for (const auto& item : state.items()) {
    if (item.value() != "copy" && item.value() != "empty" && item.value() != "volume") return fail(file + ": state: " + item.key() + ": give copy, empty or volume");
    plan.state[item.key()] = item.value().get<std::string>();
  }
  for (const auto& secret : document.value("secrets", Json::array())) {
    if (!secret.is_object() || !secret.contains("path") || !secret["path"].is_string()) return fail(file + ": secrets: each has a path");
    if (secret.contains("include") && !secret["include"].is_boolean()) return fail(file + ": secrets: include is true or false");
    if (secret.value("include", false)) plan.include_secrets.push_back(secret["path"].get<std::string>());
  }
  const Json& files = document.contains("files") ? document["files"] : none;
  if (!files.is_object() || files.empty()) return fail(file + ": files: give reasons, each with its paths");
  for (const auto& item : files.items()) {
    auto paths = TRY(strings(files, item.key().c_str()), file + ": files");
    for (const auto& path : paths)
      if (!path.starts_with('/')) return fail(file + ": files: " + path + " is not absolute");
    plan.files[item.key()] = std::move(paths);
  }
  return plan;
}

Result<> follow_plan(const Plan& plan, Seen& seen) {
  EntryPoint& entry = seen.entry;
  entry.argv = plan.command;
  entry.how = "from the plan";
  entry.env = plan.env;
  entry.cwd = plan.cwd;
  entry.forking = plan.forking;
  entry.runtime_folders = plan.runtime_folders;
  size_t colon = plan.user.find(':');
  entry.uid = static_cast<uint32_t>(TRY(parse_uint(plan.user.substr(0, colon), UINT32_MAX - 1), "plan: user: give the numbers UID:GID"));
  entry.gid = colon == std::string::npos ? entry.uid : static_cast<uint32_t>(TRY(parse_uint(plan.user.substr(colon + 1), UINT32_MAX - 1), "plan: user: give the numbers UID:GID"));
  std::set<Port> ports;
  for (const auto& text : plan.ports) {
    size_t slash = text.find('/');
    auto number = static_cast<uint16_t>(TRY(parse_uint(text.substr(0, slash), 65535), "plan: ports"));
    std::string protocol = slash == std::string::npos ? "tcp" : text.substr(slash + 1);
    auto known = std::find_if(seen.ports.begin(), seen.ports.end(), [&](const Port& p) { return p.number == number && p.protocol == protocol; });
    ports.insert(known != seen.ports.end() ? *known : Port{number, protocol, ""});
  }
  seen.ports = std::move(ports);
  seen.state_folders.clear();
  for (const auto& [folder, how] : plan.state) {
    if (how == "copy" && !seen.state.contains(folder)) return fail("plan: state: " + folder + ": there is no copy of it, since a second start has not read files in it; give empty or volume");
    seen.state_folders[folder] = how == "copy";
    if (how != "copy") seen.state.erase(folder);
    if (how == "volume") seen.volumes.insert(folder);
  }
  std::erase_if(seen.state, [&](const auto& item) { return !plan.state.contains(item.first); });
  return {};
}

}  // namespace caisson::capture
