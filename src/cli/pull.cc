#include "cli/pull.h"

#include <unistd.h>

#include <cstdio>

#include "base/event_loop.h"
#include "base/strings.h"
#include "registry/sources.h"

namespace caisson::cli {

registry::Progress transfer_progress(bool quiet) {
  if (quiet || !::isatty(STDERR_FILENO)) return [](const std::string&, uint64_t, uint64_t) {};
  return [last = int64_t{0}](const std::string& what, uint64_t done, uint64_t total) mutable {
    constexpr int64_t kBetween = 100;  // ms
    bool end = done == total;
    if (!end && monotonic_ms() - last < kBetween) return;
    last = monotonic_ms();
    std::fprintf(stderr, "\r\x1b[K%s: %s of %s%s", what.c_str(), human_size(done).c_str(), human_size(total).c_str(), end ? "\n" : "");
  };
}

Result<image::Image> pull_image(image::Store& store, const std::string& name, const registry::Options& options, bool quiet, const registry::Platform& platform, bool lazily) {
  oci::Reference reference = TRY(oci::parse_reference(name));
  auto sources = TRY(registry::sources_of(reference, TRY(registry::read_rules())));
  std::string failures;
  for (const auto& source : sources) {
    registry::Options how = options;
    if (source.insecure) how.verify_tls = false;
    bool last = &source == &sources.back();
    // Credentials on the command line are for the registry, not for its mirrors.
    if (!last) how.credentials.reset();
    auto fetched = [&]() -> Result<image::Image> {
      auto client = TRY(registry::Client::open(registry::registry_host(source.reference), how), "pull " + reference.str());
      return registry::pull(store, client, source.reference, reference, platform, transfer_progress(quiet), lazily);
    }();
    if (fetched) return fetched;
    if (last) return fail(failures + fetched.error().message, fetched.error().code);
    failures += "mirror " + source.reference.name() + ": " + fetched.error().message + "; ";
  }
  return fail("pull " + reference.str() + ": there is nowhere to pull it from", ENOENT);
}

Result<image::Image> find_or_pull(image::Store& store, const std::string& name, const std::string& policy, bool lazily) {
  if (policy != "missing" && policy != "always" && policy != "never") return fail("--pull: \"" + policy + "\" is none of missing, always and never");
  if (policy == "always") return pull_image(store, name, {}, false, {}, lazily);
  auto image = store.find(name);
  if (image || image.error().code != ENOENT || policy == "never") return image;
  auto pulled = pull_image(store, name, {}, false, {}, lazily);
  if (!pulled) return fail(image.error().message + "; " + pulled.error().message, pulled.error().code);
  return pulled;
}

Result<registry::Options> client_options(const Args& args, const std::string& side) {
  registry::Options out;
  if (args.has(side + "tls-verify")) {
    std::string value = args.get(side + "tls-verify");
    if (value != "true" && value != "false") return fail("--" + side + "tls-verify: \"" + value + "\" is neither true nor false");
    out.verify_tls = value == "true";
  }
  if (args.has(side + "creds")) {
    std::string text = args.get(side + "creds");
    size_t colon = text.find(':');
    if (colon == std::string::npos || colon == 0) return fail("--" + side + "creds: write USER:PASSWORD");
    out.credentials = registry::Credentials{text.substr(0, colon), text.substr(colon + 1), ""};
  }
  return out;
}

}  // namespace caisson::cli
