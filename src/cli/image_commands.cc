// Commands on images: images, rmi, tag, load, save, import, export.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/log.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/container_root.h"
#include "cli/table.h"
#include "engine/engine.h"
#include "image/archive.h"
#include "image/layer.h"

namespace caisson::cli {
namespace {

using engine::Engine;

Result<int> cmd_images(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  auto images = TRY(store.list());
  std::string format = args.get("format", "table");
  if (format == "json") {
    Json out = Json::array();
    for (const auto& i : images) out.push_back({{"id", i.id().str()}, {"names", i.names}, {"digest", i.descriptor.digest.str()}, {"created", i.config.created}, {"size", i.size()}, {"layers", i.manifest.layers.size()}, {"store", i.store}, {"lazy", store.is_lazy(i)}});
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  if (format != "table") return fail("--format: \"" + format + "\" is neither table nor json");
  if (args.flag("quiet")) {
    for (const auto& i : images) std::printf("%s\n", i.id().hex().substr(0, 12).c_str());
    return 0;
  }
  Table table({"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"});
  for (const auto& i : images) {
    std::string age = i.config.created.empty() ? "-" : human_duration(::time(nullptr) - parse_rfc3339(i.config.created)) + " ago";
    auto names = i.names.empty() ? std::vector<std::string>{"<none>:<none>"} : i.names;
    for (const auto& name : names) {
      size_t colon = name.rfind(':');
      table.row({name.substr(0, colon), name.substr(colon + 1), i.id().hex().substr(0, 12), age, human_size(i.size())});
    }
  }
  table.print();
  return 0;
}

Result<int> image_stores(const Globals& globals, std::span<const std::string> rest) {
  TRY(make_dirs(globals.root, 0711));
  auto stores = TRY(image::shared_stores(globals.root));
  if (rest.empty() || rest[0] == "ls") {
    for (const auto& store : stores) std::printf("%s\n", store.c_str());
    return 0;
  }
  if ((rest[0] != "add" && rest[0] != "rm") || rest.size() != 2) return fail("image stores: use ls, add DIR or rm DIR", EINVAL);
  std::string folder = clean_path(rest[1]);
  if (!rest[1].starts_with('/') || folder.find('\n') != std::string::npos) return fail("image stores: \"" + rest[1] + "\" is not an absolute path", EINVAL);
  auto known = std::find(stores.begin(), stores.end(), folder);
  if (rest[0] == "rm") {
    if (known == stores.end()) return fail("image stores: " + folder + " is not among them", ENOENT);
    stores.erase(known);
  } else if (known == stores.end()) {
    if (!exists(folder + "/images/index.json")) return fail("image stores: " + folder + " is no store (a host's --root, with images/index.json in it)", ENOENT);
    if (folder == clean_path(globals.root)) return fail("image stores: that is this store itself", EINVAL);
    stores.push_back(folder);
  }
  TRY(image::set_shared_stores(globals.root, stores));
  return 0;
}

Result<int> cmd_image(const Globals& globals, const Args& args) {
  const auto& rest = args.rest();
  if (rest[0] == "stores") {
    for (const char* option : {"format", "repair"})
      if (args.has(option)) return fail(std::string("image stores: --") + option + " has no meaning there", EINVAL);
    return image_stores(globals, std::span(rest).subspan(1));
  }
  if (rest[0] != "verify") return fail("image: unknown command \"" + rest[0] + "\": use verify or stores; images, inspect, rmi, tag, pull and the others are commands of their own", EINVAL);
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  std::vector<image::Image> images;
  for (size_t i = 1; i < rest.size(); ++i) images.push_back(TRY(store.find(rest[i])));
  if (rest.size() == 1) images = TRY(store.list());
  // Those of shared stores are their own host's to check.
  std::erase_if(images, [&](const image::Image& i) { return i.store != globals.root && rest.size() == 1; });
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json", EINVAL);
  int status = 0;
  Json out = Json::array();
  for (const auto& image : images) {
    std::string name = image.names.empty() ? image.id().hex().substr(0, 12) : image.names[0];
    auto damaged = TRY(store.damaged(image), "verify " + name);
    std::string state = !damaged.empty() ? "damaged" : store.is_lazy(image) ? "lazy"
                                                                            : "sound";
    if (!damaged.empty() && args.flag("repair")) {
      if (image.store != globals.root) return fail("image " + name + " is of the shared store " + image.store + ", which is only read here", EROFS);
      // What runs goes on with the files that it has open.
      for (const auto& path : damaged)
        if (::unlink(path.c_str()) < 0 && errno != ENOENT) return fail_errno(path);
      auto again = TRY(store.damaged(image));
      state = again.empty() && store.prepare(image) ? "repaired" : "incomplete";
    }
    if (state == "damaged" || state == "incomplete") status = 1;
    out.push_back({{"image", name}, {"id", image.id().str()}, {"state", state}, {"damaged", damaged}});
    if (format == "json") continue;
    std::string hint;
    if (state == "lazy") hint = " (what is here is sound; the rest comes as it is read)";
    if (state == "damaged") hint = " (--repair removes what is damaged)";
    if (state == "incomplete") hint = " (pull or load it again)";
    std::printf("%s: %s%s\n", name.c_str(), state.c_str(), hint.c_str());
    for (const auto& path : damaged) std::printf("  %s\n", path.c_str());
  }
  if (format == "json") std::printf("%s\n", json_text(out, 2).c_str());
  return status;
}

Result<int> cmd_rmi(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  auto containers = TRY(engine.containers().list());
  int status = 0;
  for (const auto& name : args.rest()) {
    auto remove_one = [&]() -> Result<> {
      auto image = TRY(store.find(name));
      bool last_name = image.names.size() <= 1 || name == image.id().hex().substr(0, name.size());
      for (const auto& c : containers)
        if (last_name && c.config.image_id == image.id().str() && !args.flag("force"))
          return fail("image " + name + " is used by container " + c.config.name + ": remove it first, or use --force");
      for (const auto& line : TRY(store.remove(name, args.flag("force")))) std::printf("%s\n", line.c_str());
      return {};
    };
    if (auto done = remove_one(); !done) {
      log::error("error: " + done.error().message);
      status = 1;
    }
  }
  TRY(store.collect(TRY(engine.layers_in_use())));
  return status;
}

Result<int> cmd_tag(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  TRY(store.tag(args.rest()[0], args.rest()[1]));
  return 0;
}

Result<int> cmd_load(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  std::string path = args.has("input") ? args.get("input") : args.rest().empty() ? "-"
                                                                                 : args.rest()[0];
  if (path == "-" && ::isatty(STDIN_FILENO)) return fail("load: give an archive with --input FILE, or on stdin");
  for (const auto& name : TRY(image::load(store, path), "load")) std::printf("Loaded image: %s\n", name.c_str());
  return 0;
}

Result<int> cmd_save(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  std::string format = args.get("format", "oci-archive");
  if (format != "oci-archive" && format != "docker-archive") return fail("--format: \"" + format + "\" is neither oci-archive nor docker-archive");
  for (const auto& name : args.rest()) TRY(store.find(name));
  std::string path = args.get("output");
  if (path.empty() && ::isatty(STDOUT_FILENO)) return fail("save: refusing to write an archive to a terminal: use --output FILE");
  // Beside its place first: a save that fails leaves what was there before.
  std::string draft = path + ".tmp." + random_hex(4);
  Fd fd = path.empty() ? TRY(duplicate(STDOUT_FILENO)) : TRY(open_file(draft, O_WRONLY | O_CREAT | O_EXCL, 0644), "--output");
  image::FdSink sink(fd.get());
  auto saved = image::save(store, args.rest(), format == "oci-archive" ? image::ArchiveFormat::oci : image::ArchiveFormat::docker, sink);
  if (saved && !path.empty() && ::rename(draft.c_str(), path.c_str()) < 0) saved = fail_errno("--output: " + path);
  if (!saved) {
    if (!path.empty()) ::unlink(draft.c_str());
    return detail::propagate(std::move(saved).error(), "save");
  }
  return 0;
}

Result<int> cmd_import(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  oci::ImageConfig config;
  for (const auto& change : args.all("change")) {
    size_t space = change.find_first_of(" =");
    std::string key = change.substr(0, space), value = space == std::string::npos ? "" : std::string(trim(change.substr(space + 1)));
    auto list = [&]() -> Result<std::vector<std::string>> {
      if (!value.starts_with("[")) return std::vector<std::string>{"/bin/sh", "-c", value};
      Json json = TRY(parse_json(value, "--change"));
      std::vector<std::string> out;
      for (const auto& item : json) {
        if (!item.is_string()) return fail("--change: \"" + change + "\": expected a list of strings");
        out.push_back(item.get<std::string>());
      }
      return out;
    };
    if (key == "CMD") config.cmd = TRY(list());
    else if (key == "ENTRYPOINT") config.entrypoint = TRY(list());
    else if (key == "ENV") config.env.push_back(value);
    else if (key == "USER") config.user = value;
    else if (key == "WORKDIR") config.working_dir = value;
    else if (key == "EXPOSE") config.exposed_ports.push_back(value.find('/') == std::string::npos ? value + "/tcp" : value);
    else if (key == "VOLUME") config.volumes.push_back(value);
    else if (key == "STOPSIGNAL") config.stop_signal = value;
    else if (key == "LABEL") config.labels[value.substr(0, value.find('='))] = value.find('=') == std::string::npos ? "" : value.substr(value.find('=') + 1);
    else return fail("--change: unknown instruction \"" + key + "\"");
  }
  auto image = TRY(image::import_root(store, args.rest()[0], args.rest().size() > 1 ? args.rest()[1] : "", config));
  std::printf("%s\n", image.id().str().c_str());
  return 0;
}

Result<int> cmd_export(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto container = TRY(engine.containers().find(args.rest()[0]));
  auto held = TRY(container_root(engine, container, View::own_files));
  std::string path = args.get("output");
  if (path.empty() && ::isatty(STDOUT_FILENO)) return fail("export: refusing to write an archive to a terminal: use --output FILE");
  Fd fd = path.empty() ? TRY(duplicate(STDOUT_FILENO)) : TRY(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), "--output");
  image::FdSink sink(fd.get());
  TRY(held.inside([&]() -> Result<> {
    image::TarWriter tar(sink);
    // The image and what was written; not what is mounted over it.
    TRY(image::pack_folder(sys::fd_path(held.root.fd()), tar));
    return tar.finish();
  }));
  return 0;
}

constexpr Option kImagesOptions[] = {{"-q,--quiet", "", "ids only"}, {"--format", "table|json", "how to print"}};
constexpr Option kImageOptions[] = {{"--format", "table|json", "how to print"}, {"--repair", "", "remove what is damaged, so that it is made or pulled anew"}};
constexpr Option kRmiOptions[] = {{"-f,--force", "", "also with several names, or while containers use it"}};
constexpr Option kLoadOptions[] = {{"-i,--input", "FILE", "archive or OCI layout folder (default: stdin)"}};
constexpr Option kSaveOptions[] = {{"-o,--output", "FILE", "where to write (default: stdout)"}, {"--format", "oci-archive|docker-archive", "kind of archive (default: oci-archive, which docker load reads too)"}};
constexpr Option kImportOptions[] = {{"-c,--change", "INSTRUCTION", "set CMD, ENTRYPOINT, ENV, USER, WORKDIR, EXPOSE, VOLUME, LABEL or STOPSIGNAL"}};
constexpr Option kExportOptions[] = {{"-o,--output", "FILE", "where to write (default: stdout)"}};

}  // namespace

const Command kImagesCommand{"images", "", "list images", "caisson images --format json", kImagesOptions, 0, 0, false, false, cmd_images};
const Command kImageCommand{"image", "verify [IMAGE...] | stores [ls|add DIR|rm DIR]", "check that the files of images are what they were; use other hosts' stores too", "caisson image verify web", kImageOptions, 1, SIZE_MAX, false, false, cmd_image};
const Command kRmiCommand{"rmi", "IMAGE...", "remove images", "caisson rmi web:old", kRmiOptions, 1, SIZE_MAX, false, false, cmd_rmi};
const Command kTagCommand{"tag", "IMAGE NAME", "give an image one more name", "caisson tag web web:1.0", {}, 2, 2, false, false, cmd_tag};
const Command kLoadCommand{"load", "[FILE]", "load images from an OCI archive, docker archive or OCI layout", "caisson load --input web.tar", kLoadOptions, 0, 1, false, false, cmd_load};
const Command kSaveCommand{"save", "IMAGE...", "write images to an archive", "caisson save --output web.tar web", kSaveOptions, 1, SIZE_MAX, false, false, cmd_save};
const Command kImportCommand{"import", "FILE|FOLDER|- [NAME]", "make an image of a root file system", "caisson import --change 'CMD [\"/bin/sh\"]' rootfs.tar base", kImportOptions, 1, 2, false, false, cmd_import};
const Command kExportCommand{"export", "CONTAINER", "write a container's files to a tar", "caisson export --output web-root.tar web", kExportOptions, 1, 1, false, false, cmd_export};

}  // namespace caisson::cli
