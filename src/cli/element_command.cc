// caisson element: what stands in for the kernel in containers, and the packages of its "files".
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/table.h"
#include "elements/elements.h"
#include "elements/package.h"
#include "engine/engine.h"
#include "engine/network_stack.h"
#include "engine/spec_builder.h"

namespace caisson::cli {
namespace {

Result<bool> wants_json(const Args& args) {
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  return format == "json";
}

Result<int> list_elements(bool json) {
  if (json) {
    Json out = Json::array();
    for (const auto& e : elements::catalogue()) out.push_back({{"name", e.name}, {"summary", e.summary}, {"options", e.options}});
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  Table table({"ELEMENT", "STANDS IN FOR", "OPTIONS"});
  for (const auto& e : elements::catalogue()) table.row({std::string(e.name), std::string(e.summary), std::string(e.options)});
  table.print();
  return 0;
}

std::string command_of(pid_t pid) {
  std::string text = read_file("/proc/" + std::to_string(pid) + "/cmdline").value_or("");
  while (text.ends_with('\0')) text.pop_back();
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

/// Each process with each element that its container asks for.
Result<int> inspect_container(const Globals& globals, const std::string& name, bool json) {
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  auto container = TRY(engine.containers().find(name));
  if (container.status.state != "running") return fail("container " + container.config.name + " is not running");
  auto selected = TRY(engine::selected_elements(container.config));
  auto pids = TRY(engine.runtime().processes(TRY(engine.runtime().load(container.config.id))));
  std::sort(pids.begin(), pids.end());
  bool libraries_too = engine::NetworkStack::has_libraries_mark(engine.containers().run_folder(container.config.id));
  Json out = Json::array();
  Table table({"PID", "ELEMENT", "LINKED", "INSTANCE", "COUNTERS", "COMMAND"});
  for (pid_t pid : pids)
    for (const auto& s : selected) {
      auto link = elements::inspect(pid, s.name, pids, libraries_too);
      if (!link) continue;  // it has ended meanwhile
      Json counters = Json::object();
      std::string text;
      for (const auto& [counter, value] : link->counters) {
        counters[counter] = value;
        if (value != 0) text += (text.empty() ? "" : ", ") + std::to_string(value) + " " + counter;
      }
      std::string command = command_of(pid);
      out.push_back({{"pid", pid}, {"element", s.name}, {"options", s.options}, {"linked", link->linkage}, {"instance", link->instance}, {"counters", std::move(counters)}, {"command", command}});
      constexpr size_t kShown = 40;
      table.row({std::to_string(pid), s.name, link->linkage, link->instance.substr(0, 12), text, command.substr(0, kShown)});
    }
  if (json)
    std::printf("%s\n", json_text(out, 2).c_str());
  else
    table.print();
  return 0;
}

std::function<void(uint64_t, uint64_t)> progress(const char* what) {
  if (!::isatty(STDERR_FILENO)) return {};
  return [what, shown = -1](uint64_t done, uint64_t all) mutable {
    int percent = all == 0 ? 100 : static_cast<int>(done * 100 / all);
    if (percent == shown) return;
    shown = percent;
    std::fprintf(stderr, "\r%s %3d%%%s", what, percent, done == all ? "\n" : "");
  };
}

Result<int> pack_files(const std::string& folder, const Args& args, const std::string& key) {
  elements::PackOptions options;
  std::string output = args.get("output"), compress = args.get("compress", "none");
  if (output.empty()) return fail("element files pack: name the package with --output FILE", EINVAL);
  if (compress != "none" && compress != "zstd") return fail("--compress: \"" + compress + "\" is neither none nor zstd", EINVAL);
  options.zstd = compress == "zstd";
  options.key = key;
  options.progress = progress("packing");
  auto packed = TRY(elements::pack(folder, output, options));
  constexpr size_t kShown = 10;
  for (size_t i = 0; i < std::min(packed.left_out.size(), kShown); ++i) std::fprintf(stderr, "warning: left out: %s\n", printable(packed.left_out[i]).c_str());
  if (packed.left_out.size() > kShown) std::fprintf(stderr, "warning: and %zu more\n", packed.left_out.size() - kShown);
  std::printf("%s: %llu entries, %s of content in %s\n", output.c_str(), static_cast<unsigned long long>(packed.entries), human_size(packed.content).c_str(), human_size(packed.size).c_str());
  return 0;
}

Result<int> list_files(const std::string& path, const std::string& key, bool json) {
  auto files = TRY(elements::OpenPackage::open(path, key)).list();
  if (json) {
    Json out = Json::array();
    for (const auto& f : files) {
      out.push_back({{"path", f.path}, {"mode", f.mode}, {"uid", f.uid}, {"gid", f.gid}, {"links", f.links}, {"size", f.size}, {"mtime", f.mtime}});
      if (!f.target.empty()) out.back()["target"] = f.target;
    }
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  Table table({"MODE", "OWNER", "SIZE", "MODIFIED", "PATH"});
  for (const auto& f : files) {
    char mode[16];
    std::snprintf(mode, sizeof mode, "%06o", f.mode);
    table.row({mode, std::to_string(f.uid) + ":" + std::to_string(f.gid), std::to_string(f.size), rfc3339(f.mtime), printable(f.path) + (f.target.empty() ? "" : " -> " + printable(f.target))});
  }
  table.print();
  return 0;
}

Result<int> files_command(const Args& args, bool json) {
  const auto& words = args.rest();
  std::string key = args.has("key") ? TRY(elements::read_key(args.get("key"))) : "";
  if (words.size() == 3 && words[1] == "pack") return pack_files(words[2], args, key);
  if (words.size() == 3 && words[1] == "ls") return list_files(words[2], key, json);
  if (words.size() == 3 && words[1] == "verify") {
    TRY(TRY(elements::OpenPackage::open(words[2], key)).verify(progress("reading")));
    std::printf("%s: every file is as it was packed\n", words[2].c_str());
    return 0;
  }
  return fail("element files: write \"element files pack FOLDER --output PACKAGE\", \"element files ls PACKAGE\" or \"element files verify PACKAGE\"", EINVAL);
}

Result<int> cmd_element(const Globals& globals, const Args& args) {
  bool json = TRY(wants_json(args));
  const auto& words = args.rest();
  bool files = words[0] == "files", packs = files && words.size() > 1 && words[1] == "pack";
  for (const auto& [option, has_meaning] : {std::pair("output", packs), std::pair("compress", packs), std::pair("key", files), std::pair("format", !packs && (words.size() < 2 || words[1] != "verify"))})
    if (args.has(option) && !has_meaning) return fail("--" + std::string(option) + " has no meaning for \"element " + join(words, " ") + "\"", EINVAL);
  if (words[0] == "ls" && words.size() == 1) return list_elements(json);
  if (words[0] == "inspect" && words.size() == 2) return inspect_container(globals, words[1], json);
  if (words[0] == "files") return files_command(args, json);
  return fail("element: write \"element ls\", \"element inspect CONTAINER\" or \"element files pack|ls|verify\"", EINVAL);
}

constexpr Option kOptions[] = {{"--format", "table|json", "how to show it (default: table)"},
                               {"-o,--output", "PACKAGE", "files pack: the file to make"},
                               {"--compress", "none|zstd", "files pack: how (default: none, which is the fastest to use)"},
                               {"--key", "FILE", "files: encrypt, or read what is encrypted, with the 64 hexadecimal digits in it (openssl rand -hex 32)"}};

}  // namespace

const Command kElementCommand{"element", "ls|inspect CONTAINER|files pack FOLDER|files ls PACKAGE|files verify PACKAGE", "list the user-mode elements that containers can have; show which of their processes have them; pack folders for the element files", "caisson element files pack /srv/site --output site.package", kOptions, 1, 3, false, false, cmd_element};

}  // namespace caisson::cli
