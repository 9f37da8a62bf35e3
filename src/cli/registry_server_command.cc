// caisson registry: a registry of one's own.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "registry/server.h"

namespace caisson::cli {
namespace {

/// "127.0.0.1:5000", ":5000", "[::1]:5000"
Result<> parse_listen(const std::string& text, http::ServerOptions& options) {
  size_t colon = text.rfind(':');
  if (colon == std::string::npos) return fail("--listen: \"" + text + "\": write ADDRESS:PORT");
  options.port = static_cast<uint16_t>(TRY(parse_uint(std::string_view(text).substr(colon + 1), 65535), "--listen"));
  options.address = text.substr(0, colon);
  if (options.address.starts_with('[') && options.address.ends_with(']')) options.address = options.address.substr(1, options.address.size() - 2);
  if (options.address.empty()) options.address = "0.0.0.0";
  return {};
}

Result<int> serve(const Args& args, registry::Shelf shelf) {
  http::ServerOptions options;
  TRY(parse_listen(args.get("listen", "127.0.0.1:5000"), options));
  options.certificate = args.get("tls-cert");
  options.key = args.get("tls-key");
  if (options.certificate.empty() != options.key.empty()) return fail("--tls-cert and --tls-key belong together");
  registry::ServeOptions what{args.get("htpasswd"), args.get("policy"), !options.certificate.empty(), args.flag("read-only"), args.all("immutable-tags"), args.get("upstream"), 60, args.all("replicate"), args.flag("replicate-deletions"), args.get("audit-log")};
  if (!what.upstream.empty() && !what.replicate.empty()) return fail("--replicate and --upstream exclude each other: nobody pushes to what shows another registry");
  if (what.replicate_deletions && what.replicate.empty()) return fail("--replicate-deletions has no meaning without --replicate");
  if (!what.upstream.empty() && !what.immutable_tags.empty()) return fail("--immutable-tags and --upstream exclude each other: the other registry's tags mean what they mean there");
  if (args.has("upstream-fresh")) {
    if (what.upstream.empty()) return fail("--upstream-fresh has no meaning without --upstream");
    what.fresh_seconds = static_cast<int64_t>(TRY(parse_uint(args.get("upstream-fresh"), INT32_MAX), "--upstream-fresh"));
  }
  // Before there are threads, so that all of them have it.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  Fd stop(::signalfd(-1, &ends, SFD_CLOEXEC));
  auto registry = TRY(registry::Registry::open(std::move(shelf), what));
  auto server = TRY(http::Server::open(options));
  std::fprintf(stderr, "serving %s on %s:%u\n", options.certificate.empty() ? "HTTP" : "HTTPS", options.address.c_str(), server.port());
  std::jthread tidying([&registry, &stop] {
    constexpr int kEach = 3600 * 1000;  // ms
    struct pollfd ends = {stop.get(), POLLIN, 0};
    do {
      if (auto done = registry->tidy(); !done) log::error("tags that expire: " + done.error().message);
    } while (::poll(&ends, 1, kEach) == 0);
  });
  auto done = server.run([&](http::Exchange& exchange) { return registry->handle(exchange); }, stop.get());
  if (!done) ::kill(::getpid(), SIGTERM);  // blocked: it ends the other thread
  TRY(std::move(done));
  return 0;
}

Result<int> cmd_registry(const Globals& globals, const Args& args) {
  const std::string& verb = args.rest()[0];
  auto refuse = [&](std::initializer_list<const char*> options) -> Result<> {
    for (const char* option : options)
      if (args.has(option)) return fail("--" + std::string(option) + " has no meaning for \"registry " + verb + "\"");
    return {};
  };
  if (verb != "serve" && verb != "gc") return fail("registry: write \"registry serve\" or \"registry gc\"", EINVAL);
  TRY(verb == "serve" ? refuse({"older-than"}) : refuse({"listen", "tls-cert", "tls-key", "htpasswd", "read-only", "audit-log", "upstream", "upstream-fresh", "replicate", "replicate-deletions"}));
  auto shelf = TRY(registry::Shelf::open(args.get("storage", globals.root + "/registry")), "--storage");
  if (verb == "serve") return serve(args, std::move(shelf));
  if (std::string file = args.get("policy"); !file.empty()) {
    auto policy = TRY(registry::Policy::parse(TRY(read_file(file), "--policy"), file));
    std::printf("%zu tags expired\n", TRY(registry::expire_tags(shelf, policy, args.all("immutable-tags"))));
  } else if (args.has("immutable-tags")) {
    return fail("--immutable-tags has no meaning for \"registry gc\" without --policy");
  }
  uint64_t seconds = TRY(parse_uint(args.get("older-than", "3600"), INT32_MAX), "--older-than");
  std::printf("%s freed\n", human_size(TRY(shelf.collect(static_cast<int64_t>(seconds)))).c_str());
  return 0;
}

constexpr Option kOptions[] = {
    {"--storage", "DIR", "where it keeps images (default: registry in the data root)"},
    {"--listen", "ADDRESS:PORT", "where it serves (default: 127.0.0.1:5000)"},
    {"--tls-cert", "FILE", "certificate; without one it serves HTTP"},
    {"--tls-key", "FILE", "its key"},
    {"--htpasswd", "FILE", "only for those in this file (htpasswd -B)"},
    {"--policy", "FILE", "who may do what where, quotas, and how long tags live (docs/registries.md)"},
    {"--read-only", "", "nobody pushes or deletes"},
    {"--immutable-tags", "PATTERN", "tags that cannot be moved or deleted, such as v* (may be given several times)"},
    {"--upstream", "REGISTRY[/PATH]", "show what another registry has, and keep what was asked for; nobody pushes here"},
    {"--upstream-fresh", "SECONDS", "how long a tag is not asked for again (default: 60)"},
    {"--replicate", "[PATTERN=]REGISTRY[/PATH]", "send what is pushed on to another registry (may be given several times)"},
    {"--replicate-deletions", "", "and pass on what clients delete (not what expires)"},
    {"--audit-log", "FILE", "a line of JSON for each request that is no read"},
    {"--older-than", "SECONDS", "gc: leave alone what is younger (default: 3600)"},
};

}  // namespace

const Command kRegistryCommand{"registry", "serve|gc", "serve images to others; remove what no repository has any more", "caisson registry serve --listen :5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users", kOptions, 1, 1, false, false, cmd_registry, 1, true};

}  // namespace caisson::cli
