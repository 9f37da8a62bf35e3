// caisson artifact: files in a registry that are no images, and what refers to an image there.
#include <cstdio>
#include <set>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/epoch.h"
#include "cli/pull.h"
#include "cli/table.h"
#include "registry/artifacts.h"
#include "registry/referrers.h"
#include "registry/sources.h"

namespace caisson::cli {
namespace {

struct Place {
  oci::Reference reference;
  registry::Client client;
};

Result<Place> place_of(const std::string& name, const Args& args) {
  auto options = TRY(client_options(args));
  auto reference = TRY(registry::place_of(TRY(oci::parse_reference(name)), options), name);
  auto client = TRY(registry::Client::open(registry::registry_host(reference), options), name);
  return Place{std::move(reference), std::move(client)};
}

Result<registry::Artifact> described(const Args& args) {
  registry::Artifact out;
  out.type = args.get("artifact-type");
  size_t slash = out.type.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == out.type.size()) return fail("--artifact-type: what is it? A media type, such as application/spdx+json", EINVAL);
  auto epoch = TRY(source_date_epoch());
  out.annotations[std::string(oci::kAnnotationCreated)] = epoch ? rfc3339(*epoch) : rfc3339_now();
  for (const auto& text : args.all("annotation")) {
    size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) return fail("--annotation: \"" + text + "\": write KEY=VALUE", EINVAL);
    out.annotations[text.substr(0, equals)] = text.substr(equals + 1);
  }
  out.newest = epoch;
  std::set<std::string> titles;
  auto title_of = [](std::string_view path) {
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);  // of a folder
    return base_name(path);
  };
  for (size_t i = 2; i < args.rest().size(); ++i)
    if (std::string title(title_of(args.rest()[i])); !titles.insert(title).second) return fail("artifact: two files are called " + title + ", which is all that is kept of their paths", EINVAL);
  for (size_t i = 2; i < args.rest().size(); ++i) out.files.push_back({args.rest()[i], args.get("media-type", "application/octet-stream")});
  return out;
}

Result<int> send(const std::string& name, const Args& args, bool attach) {
  auto artifact = TRY(described(args));
  if (!attach && TRY(oci::parse_reference(name)).digest) return fail("artifact push: " + name + ": its digest is what its content gives: name it by a tag", EINVAL);
  auto place = TRY(place_of(name, args));
  if (attach) {
    artifact.subject = place.reference;
    place.reference.tag.clear();
  }
  auto digest = TRY(registry::push_artifact(place.client, place.reference, artifact, transfer_progress(args.flag("quiet"))), (attach ? "attach to " : "push ") + name);
  std::printf("%s\n", digest.str().c_str());
  return 0;
}

Result<int> fetch(const std::string& name, const Args& args) {
  auto place = TRY(place_of(name, args));
  for (const auto& path : TRY(registry::pull_artifact(place.client, place.reference, args.get("output", "."), transfer_progress(args.flag("quiet"))), "pull " + name)) std::printf("%s\n", path.c_str());
  return 0;
}

Result<int> list(const std::string& name, const Args& args) {
  std::string format = args.get("format", "table"), type = args.get("artifact-type");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  auto place = TRY(place_of(name, args));
  std::string repository = registry::repository_path(place.reference);
  auto subject = place.reference.digest ? *place.reference.digest : TRY(place.client.manifest(repository, place.reference.tag), name).digest;
  auto all = TRY(registry::referrers(place.client, repository, subject), name);
  if (!type.empty()) std::erase_if(all, [&](const oci::Descriptor& d) { return d.artifact_type != type; });
  if (format == "json") {
    Json out = Json::array();
    for (const auto& d : all) out.push_back(oci::to_json(d));
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  Table table({"DIGEST", "TYPE", "CREATED"});
  for (const auto& d : all) {
    auto created = d.annotations.find(std::string(oci::kAnnotationCreated));
    table.row({d.digest.str(), printable(d.artifact_type), created == d.annotations.end() ? "-" : printable(created->second)});
  }
  table.print();
  return 0;
}

Result<int> cmd_artifact(const Globals&, const Args& args) {
  const auto& words = args.rest();
  const std::string& verb = words[0];
  bool sends = verb == "push" || verb == "attach", lists = verb == "ls";
  if (!sends && !lists && verb != "pull") return fail("artifact: write \"artifact push NAME FILE...\", \"artifact attach IMAGE FILE...\", \"artifact pull NAME\" or \"artifact ls IMAGE\"", EINVAL);
  for (const auto& [option, has_meaning] : {std::pair("artifact-type", sends || lists), std::pair("media-type", sends), std::pair("annotation", sends), std::pair("output", verb == "pull"), std::pair("format", lists), std::pair("quiet", !lists)})
    if (args.has(option) && !has_meaning) return fail("--" + std::string(option) + " has no meaning for \"artifact " + verb + "\"", EINVAL);
  if (!sends && words.size() > 2) return fail("artifact " + verb + ": one name", EINVAL);
  if (sends) return send(words[1], args, verb == "attach");
  return lists ? list(words[1], args) : fetch(words[1], args);
}

constexpr Option kOptions[] = {{"--artifact-type", "TYPE", "push, attach: what it is, a media type; ls: only those"},
                               {"--media-type", "TYPE", "push, attach: of the files (default: application/octet-stream)"},
                               {"--annotation", "KEY=VALUE", "push, attach: something to say about it"},
                               {"-o,--output", "FOLDER", "pull: where the files go (default: .)"},
                               {"--format", "table|json", "ls: how to show them (default: table)"},
                               {"--tls-verify", "true|false", "false: take any certificate, and HTTP where there is no HTTPS"},
                               {"--creds", "USER:PASSWORD", "who you are, in place of what login has saved"},
                               {"-q,--quiet", "", "show no progress"}};

}  // namespace

const Command kArtifactCommand{"artifact", "push NAME FILE...|attach IMAGE FILE...|pull NAME|ls IMAGE", "keep files beside images in a registry (SBOMs, signatures), and show what refers to an image", "caisson artifact attach --artifact-type application/spdx+json registry.example/shop:1.0 sbom.json", kOptions, 2, SIZE_MAX, false, false, cmd_artifact};

}  // namespace caisson::cli
