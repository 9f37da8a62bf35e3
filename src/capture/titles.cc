#include "capture/titles.h"

#include <algorithm>

#include "base/strings.h"
#include "capture/units.h"

namespace caisson::capture {
namespace {

using Command = std::vector<std::string>;

/// What stands between two texts of the title; "" where they do not.
std::string between(const std::string& title, std::string_view before, std::string_view after) {
  size_t begin = title.find(before);
  if (begin == std::string::npos) return {};
  begin += before.size();
  size_t end = title.find(after, begin);
  return end == std::string::npos ? "" : title.substr(begin, end - begin);
}

/// "nginx: master process /usr/sbin/nginx -c /etc/nginx/nginx.conf"
Command nginx(const ProcessInfo& p, const std::set<Port>& /*ports*/) {
  Command argv = split_command(p.title.substr(p.title.find("process ") + 8));
  // Arguments with spaces lost their quotes; only -g takes such, as far as the next option.
  auto g = std::find(argv.begin(), argv.end(), "-g");
  if (g != argv.end() && g + 1 != argv.end()) {
    auto end = std::find_if(g + 2, argv.end(), [](const std::string& word) { return word.starts_with('-'); });
    *(g + 1) = join({g + 1, end}, " ");
    argv.erase(g + 2, end);
  }
  if (!argv.empty() && argv[0].find('/') == std::string::npos) argv[0] = p.exe;
  return argv;
}

/// "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)"
Command php_fpm(const ProcessInfo& p, const std::set<Port>& /*ports*/) { return {p.exe, "--nodaemonize", "--fpm-config", between(p.title, "(", ")")}; }

/// "puma 5.6.5 (tcp://0.0.0.0:9292,unix:///run/puma.sock) [shop]"
Command puma(const ProcessInfo& p, const std::set<Port>& /*ports*/) {
  Command argv{p.script};
  for (auto& bind : split(between(p.title, "(", ")"), ',', true)) argv.insert(argv.end(), {"-b", std::move(bind)});
  return argv;
}

/// "gunicorn: master [shop.app:make()]"
Command gunicorn(const ProcessInfo& p, const std::set<Port>& ports) {
  Command argv{p.script};
  for (const auto& port : ports)
    if (port.protocol == "tcp") argv.insert(argv.end(), {"-b", (port.address.find(':') == std::string::npos ? port.address : "[" + port.address + "]") + ":" + std::to_string(port.number)});
  argv.push_back(between(p.title, "[", "]"));
  return argv;
}

/// "unicorn master -c config/unicorn.rb -E production"
Command unicorn(const ProcessInfo& p, const std::set<Port>& /*ports*/) {
  Command argv = split_command(p.title.substr(p.title.find("master") + 6));
  argv.insert(argv.begin(), p.script);
  return argv;
}

/// "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"
Command sshd(const ProcessInfo& p, const std::set<Port>& /*ports*/) { return split_command(between(p.title, "sshd: ", " [listener]")); }

struct Title {
  const char* form;  ///< what it starts with
  bool of_script;    ///< the program is a script
  Command (*command)(const ProcessInfo&, const std::set<Port>&);
};
constexpr Title kTitles[] = {
    {"nginx: master process ", false, nginx},
    {"php-fpm: master process (", false, php_fpm},
    {"puma ", true, puma},
    {"gunicorn: master [", true, gunicorn},
    {"unicorn master", true, unicorn},
    {"unicorn_rails master", true, unicorn},
    {"sshd: /", false, sshd},
};

}  // namespace

std::optional<std::vector<std::string>> command_in_title(const ProcessInfo& process, const std::set<Port>& ports) {
  for (const auto& known : kTitles) {
    if (!process.title.starts_with(known.form) || (known.of_script && process.script.empty())) continue;
    Command argv = known.command(process, ports);
    if (!argv.empty() && !argv.back().empty()) return argv;
  }
  return {};
}

}  // namespace caisson::capture
