// Commands that speak with registries: pull, push, copy, manifest, login, logout, tags.
#include <termios.h>
#include <unistd.h>

#include <cstdio>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/pull.h"
#include "engine/engine.h"
#include "lazy/filler.h"
#include "lazy/image.h"
#include "registry/sources.h"
#include "registry/transfer.h"

namespace caisson::cli {
namespace {

using engine::Engine;

Result<uint64_t> chunk_size(const Args& args) {
  if (!args.has("chunk-size")) return 0;
  uint64_t size = TRY(parse_size(args.get("chunk-size")), "--chunk-size");
  // It is held in memory.
  if (size < (64u << 10) || size > (1u << 30)) return fail("--chunk-size: from 64k to 1g", EINVAL);
  return size;
}

/// Starts what fetches the rest of an image that was pulled lazily, or ends what was begun so.
Result<> see_to_the_rest(const Globals& globals, const image::Image& image) {
  std::vector<std::string> ids;
  for (const auto& id : image.config.diff_ids) ids.push_back(id.hex());
  image::LayerStore layers(globals.root + "/layers");
  if (!layers.expects_any(ids)) return {};
  auto lower = TRY(layers.find(ids));
  lazy::LazyImage lazy({globals.root, globals.run_root}, lower, ids);
  if (!lower.lazy) return lazy.tidy();
  auto begun = lazy.get();
  return begun || begun.error().code == ENOENT ? Result<>() : Result<>(detail::propagate(std::move(begun).error()));
}

Result<int> cmd_fill_image(const Globals& globals, const Args& args) {
  lazy::FillerOptions options{globals.root, globals.run_root, args.rest()};
  if (args.has("report")) options.report_fd = static_cast<int>(TRY(parse_uint(args.get("report"), 65536)));
  return lazy::run_filler(options);
}

Result<int> cmd_pull(const Globals& globals, const Args& args) {
  auto options = TRY(client_options(args));
  if (args.flag("lazy") && args.has("creds")) return fail("--lazy: what is fetched later needs credentials that are saved (caisson login), not --creds", EINVAL);
  auto platform = TRY(registry::parse_platform(args.get("platform", "linux/amd64")), "--platform");
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  for (const auto& name : args.rest()) {
    auto image = TRY(pull_image(store, name, options, args.flag("quiet"), platform, args.flag("lazy")));
    TRY(see_to_the_rest(globals, image));
    std::printf("%s\n", image.id().str().c_str());
  }
  return 0;
}

Result<int> cmd_push(const Globals& globals, const Args& args) {
  auto options = TRY(client_options(args));
  options.chunk_size = TRY(chunk_size(args));
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  auto image = TRY(store.find(args.rest()[0]));
  TRY(store.require_whole(image), "push");
  oci::Reference to = TRY(oci::parse_reference(args.rest().size() > 1 ? args.rest()[1] : args.rest()[0]));
  if (args.rest().size() == 1 && to.registry.empty()) return fail(args.rest()[0] + " names no registry: tag it, or say where it goes: caisson push " + args.rest()[0] + " registry.example/" + to.repository, EINVAL);
  auto there = TRY(registry::place_of(to, options), "push " + to.str());
  auto client = TRY(registry::Client::open(registry::registry_host(there), options), "push " + to.str());
  auto digest = TRY(registry::push(store, client, image, there, transfer_progress(args.flag("quiet")), args.flag("lazy")));
  std::printf("%s\n", digest.str().c_str());
  return 0;
}

Result<int> cmd_copy(const Globals&, const Args& args) {
  oci::Reference source = TRY(oci::parse_reference(args.rest()[0])), destination = TRY(oci::parse_reference(args.rest()[1]));
  auto from_options = TRY(client_options(args, "src-")), to_options = TRY(client_options(args, "dest-"));
  to_options.chunk_size = TRY(chunk_size(args));
  source = TRY(registry::place_of(source, from_options), "copy " + source.str());
  destination = TRY(registry::place_of(destination, to_options), "copy to " + destination.str());
  auto from = TRY(registry::Client::open(registry::registry_host(source), from_options), "copy " + source.str());
  auto to = TRY(registry::Client::open(registry::registry_host(destination), to_options), "copy to " + destination.str());
  std::printf("%s\n", TRY(registry::copy(from, source, to, destination, args.flag("referrers"), transfer_progress(args.flag("quiet")))).str().c_str());
  return 0;
}

Result<int> cmd_manifest(const Globals&, const Args& args) {
  if (args.rest()[0] != "inspect" || args.rest().size() != 2) return fail("manifest: use inspect IMAGE", EINVAL);
  oci::Reference reference = TRY(oci::parse_reference(args.rest()[1]));
  auto options = TRY(client_options(args));
  reference = TRY(registry::place_of(reference, options), "inspect " + reference.str());
  auto client = TRY(registry::Client::open(registry::registry_host(reference), options), "inspect " + reference.str());
  auto document = TRY(client.manifest(registry::repository_path(reference), reference.digest ? reference.digest->str() : reference.tag), "inspect " + reference.str());
  // As it is, so that its digest can be computed from it.
  std::fwrite(document.text.data(), 1, document.text.size(), stdout);
  if (::isatty(STDOUT_FILENO)) std::printf("\n");
  return 0;
}

/// A line from the terminal, without showing it.
Result<std::string> ask_password() {
  struct termios before;
  bool terminal = ::tcgetattr(STDIN_FILENO, &before) == 0;
  if (terminal) {
    std::fprintf(stderr, "Password: ");
    struct termios silent = before;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &silent);
  }
  std::string line;
  char c;
  while (::read(STDIN_FILENO, &c, 1) == 1 && c != '\n') line += c;
  if (terminal) {
    ::tcsetattr(STDIN_FILENO, TCSANOW, &before);
    std::fprintf(stderr, "\n");
  }
  if (line.ends_with('\r')) line.pop_back();
  if (line.empty()) return fail("the password is empty");
  return line;
}

Result<int> cmd_login(const Globals&, const Args& args) {
  auto options = TRY(client_options(args));
  std::string host = args.rest().empty() ? "docker.io" : args.rest()[0];
  registry::Credentials who;
  who.user = args.get("username");
  if (who.user.empty()) return fail("--username: who are you?");
  if (args.has("password") && args.flag("password-stdin")) return fail("--password and --password-stdin exclude each other");
  if (!args.has("password") && !args.flag("password-stdin") && !::isatty(STDIN_FILENO)) return fail("give the password with --password-stdin");
  who.password = args.has("password") ? args.get("password") : TRY(ask_password());
  options.credentials = who;
  auto client = TRY(registry::Client::open(host, options), "log in to " + host);
  TRY(client.check_login(), "log in to " + host);
  std::fprintf(stderr, "saved in %s, unencrypted\n", TRY(registry::save_credentials(host, who)).c_str());
  std::printf("Login Succeeded\n");
  return 0;
}

Result<int> cmd_logout(const Globals&, const Args& args) {
  std::string host = args.rest().empty() ? "docker.io" : args.rest()[0];
  if (!TRY(registry::remove_credentials(host))) return fail("not logged in to " + host);
  std::printf("Removed login credentials for %s\n", host.c_str());
  return 0;
}

Result<int> cmd_tags(const Globals&, const Args& args) {
  auto options = TRY(client_options(args));
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  oci::Reference reference = TRY(oci::parse_reference(args.rest()[0]));
  auto there = TRY(registry::place_of(reference, options));
  auto client = TRY(registry::Client::open(registry::registry_host(there), options));
  auto tags = TRY(client.tags(registry::repository_path(there)));
  if (format == "json") {
    std::printf("%s\n", json_text(Json{{"name", reference.name()}, {"tags", tags}}, 2).c_str());
    return 0;
  }
  for (const auto& tag : tags) std::printf("%s\n", tag.c_str());
  return 0;
}

#define CAISSON_REGISTRY_OPTIONS                                                                   \
  {"--tls-verify", "true|false", "false: take any certificate, and HTTP where there is no HTTPS"}, \
  { "--creds", "USER:PASSWORD", "who you are, in place of what login has saved" }

// Some proxies in front of registries take no large requests.
#define CAISSON_CHUNK_OPTION \
  { "--chunk-size", "SIZE", "send larger blobs in several requests of that size (default: in one)" }

constexpr Option kPullOptions[] = {CAISSON_REGISTRY_OPTIONS, {"-q,--quiet", "", "show no progress"}, {"--platform", "OS/ARCH[/VARIANT]", "of an image for several, which (default: linux/amd64)"}, {"--lazy", "", "layers come as they are read, and the rest in the background (of images pushed with --lazy)"}};
constexpr Option kFillOptions[] = {{"--report", "FD", "where to say that it has begun"}};
constexpr Option kPushOptions[] = {CAISSON_REGISTRY_OPTIONS, {"-q,--quiet", "", "show no progress"}, {"--lazy", "", "layers in a form that can be fetched as it is read (zstd; other digests)"}, CAISSON_CHUNK_OPTION};
constexpr Option kManifestOptions[] = {CAISSON_REGISTRY_OPTIONS};
constexpr Option kCopyOptions[] = {{"--src-tls-verify", "true|false", "false: take any certificate of the source, and HTTP"}, {"--dest-tls-verify", "true|false", "the same for the destination"}, {"--src-creds", "USER:PASSWORD", "who you are there, in place of what login has saved"}, {"--dest-creds", "USER:PASSWORD", "the same for the destination"}, {"-q,--quiet", "", "show no progress"}, {"--referrers", "", "with the signatures, SBOMs and other artifacts that refer to it"}, CAISSON_CHUNK_OPTION};
constexpr Option kLoginOptions[] = {{"--tls-verify", "true|false", "false: take any certificate, and HTTP where there is no HTTPS"}, {"-u,--username", "NAME", "who you are"}, {"-p,--password", "PASSWORD", "visible to others; better:"}, {"--password-stdin", "", "read the password from stdin"}};
constexpr Option kTagsOptions[] = {CAISSON_REGISTRY_OPTIONS, {"--format", "table|json", "how to show them (default: one a line)"}};
#undef CAISSON_REGISTRY_OPTIONS
#undef CAISSON_CHUNK_OPTION

}  // namespace

const Command kPullCommand{"pull", "IMAGE...", "fetch images from a registry", "caisson pull registry.example/shop:1.0", kPullOptions, 1, SIZE_MAX, false, false, cmd_pull};
const Command kFillImageCommand{"fill-image", "LAYER...", "fetch what is read of an image", "", kFillOptions, 1, SIZE_MAX, false, true, cmd_fill_image};
const Command kPushCommand{"push", "IMAGE [DESTINATION]", "send an image to a registry", "caisson push shop registry.example/shop:1.0", kPushOptions, 1, 2, false, false, cmd_push};
const Command kCopyCommand{"copy", "SOURCE DESTINATION", "copy an image from one registry to another, all platforms", "caisson copy docker.io/library/debian:12 registry.example/debian:12", kCopyOptions, 2, 2, false, false, cmd_copy};
const Command kManifestCommand{"manifest", "inspect IMAGE", "show the manifest or index that a registry has", "caisson manifest inspect registry.example/shop:1.0", kManifestOptions, 1, 2, false, false, cmd_manifest};
const Command kLoginCommand{"login", "[REGISTRY]", "say who you are at a registry", "caisson login -u alice --password-stdin registry.example", kLoginOptions, 0, 1, false, false, cmd_login, 1, true};
const Command kLogoutCommand{"logout", "[REGISTRY]", "forget who you are at a registry", "caisson logout registry.example", {}, 0, 1, false, false, cmd_logout, 1, true};
const Command kTagsCommand{"tags", "REPOSITORY", "list the tags of a repository in a registry", "caisson tags registry.example/shop", kTagsOptions, 1, 1, false, false, cmd_tags, 1, true};

}  // namespace caisson::cli
