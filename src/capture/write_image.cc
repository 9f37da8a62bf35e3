#include "capture/write_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "base/strings.h"
#include "capture/layers.h"
#include "capture/source_diff.h"
#include "image/layer.h"

namespace caisson::capture {
namespace {

/// The time that the image gets: SOURCE_DATE_EPOCH, or of the newest file in it, so that two
/// captures of the same state are the same.
int64_t moment_of(const FileSet& files, const std::set<std::string>* among = nullptr) {
  if (const char* epoch = ::getenv("SOURCE_DATE_EPOCH"); epoch != nullptr)
    if (auto seconds = parse_uint(epoch, INT64_MAX); seconds) return static_cast<int64_t>(*seconds);
  int64_t newest = 0;
  for (const auto& [path, item] : files.items())
    if (S_ISREG(item.st.st_mode) && (among == nullptr || among->contains(path))) newest = std::max<int64_t>(newest, item.st.st_mtim.tv_sec);
  return newest;
}

/// Writes a layer: its files in the order of their paths, and the content of the state
/// folders that are kept.
Result<> write_layer(const FileSet& files, const std::set<std::string>& paths, const std::map<std::string, std::string>& state, image::TarWriter& tar) {
  std::map<std::pair<dev_t, ino_t>, std::string> links;
  std::vector<char> buffer(1u << 17);
  int64_t moment = moment_of(files, &paths);
  for (const auto& path : paths) {
    auto found = files.items().find(path);
    if (found == files.items().end()) continue;
    const FileItem& item = found->second;
    image::TarEntry e;
    e.path = path.substr(1);
    if (e.path.empty()) continue;
    e.mode = item.st.st_mode & 07777;
    e.uid = item.st.st_uid;
    e.gid = item.st.st_gid;
    e.mtime = item.st.st_mtim.tv_sec;
    e.mtime_ns = static_cast<uint32_t>(item.st.st_mtim.tv_nsec);
    if (S_ISDIR(item.st.st_mode)) {
      e.type = image::EntryType::directory;
      e.mtime_ns = 0;
      e.mtime = moment;  // what was put into /tmp since is no part of it
      TRY(tar.add(e));
    } else if (S_ISLNK(item.st.st_mode)) {
      e.type = image::EntryType::symlink;
      e.link = item.link;
      TRY(tar.add(e));
    } else if (item.content) {
      e.size = item.content->size();
      TRY(tar.add_file(e, *item.content));
    } else {
      if (item.st.st_nlink > 1) {
        auto [it, first] = links.try_emplace({item.st.st_dev, item.st.st_ino}, e.path);
        if (!first) {
          e.type = image::EntryType::hard_link;
          e.link = it->second;
          TRY(tar.add(e));
          continue;
        }
      }
      std::string source = item.source.empty() ? path : item.source;
      Fd fd = TRY(open_file(source, O_RDONLY | O_NONBLOCK));
      struct stat st;
      if (::fstat(fd.get(), &st) < 0 || !S_ISREG(st.st_mode)) return fail(source + " is not a regular file any more");
      e.size = static_cast<uint64_t>(st.st_size);
      TRY(tar.add(e));
      image::FdSource in(fd.get(), source, 0, e.size);
      for (uint64_t left = e.size; left > 0;) {
        size_t n = TRY(in.read(buffer.data(), buffer.size()), "it changed while it was read");
        TRY(tar.data(std::string_view(buffer.data(), n)));
        left -= n;
      }
    }
  }
  for (const auto& [folder, file] : state) {
    Fd fd = TRY(open_file(file, O_RDONLY));
    image::FdSource in(fd.get(), file);
    image::TarReader reader(in);
    image::TarEntry e;
    while (TRY(reader.next(e))) {
      std::string inner = folder + "/" + e.path;
      if (files.has(inner)) {
        continue;
      }
      e.path = inner.substr(1);
      if (e.type == image::EntryType::hard_link) e.link = (folder + "/" + e.link).substr(1);
      TRY(tar.add(e));
      for (;;) {
        size_t n = TRY(reader.read_data(buffer.data(), buffer.size()));
        if (n == 0) break;
        TRY(tar.data(std::string_view(buffer.data(), n)));
      }
    }
  }
  return tar.finish();
}

/// "" for root. By name alone, the user has the groups that /etc/group gives it.
std::string user_of(const EntryPoint& entry) {
  if (entry.uid == 0 && entry.gid == 0) return {};
  HostUser known = host_user(entry.uid);
  return known.gid == entry.gid ? known.name : std::to_string(entry.uid) + ":" + std::to_string(entry.gid);
}

/// One program of several, as the engine reads it (label io.caisson.start).
Json start_command(const EntryPoint& entry, const FileSet& files) {
  std::string user = user_of(entry);
  return {{"args", entry.argv}, {"user", user.empty() ? "root" : user}, {"cwd", files.has(entry.cwd) ? entry.cwd : "/"}, {"forking", entry.forking}};
}

/// What its unit runs before it.
void add_preparation(const EntryPoint& entry, Json& start) {
  for (const auto& command : entry.before) {
    Json one{{"args", command.argv}, {"cwd", "/"}, {"once", true}, {"may_fail", command.may_fail}};
    std::string user = user_of(entry);
    one["user"] = command.as_root || user.empty() ? "root" : user;
    start.push_back(std::move(one));
  }
}

oci::ImageConfig make_config(const CaptureRequest& request, const Seen& seen, const FileSet& files) {
  oci::ImageConfig config;
  config.created = rfc3339(moment_of(files));
  if (!seen.more.empty()) {
    Json start = Json::array({start_command(seen.entry, files)});
    for (const auto& entry : seen.more) start.push_back(start_command(entry, files));
    for (size_t i = 0; i + 1 < start.size(); ++i)
      if (seen.ready[i] != 0) start[i]["ready_port"] = seen.ready[i];
    config.labels["io.caisson.start"] = json_text(start);
  } else if (seen.prepared) {
    Json start = Json::array();
    add_preparation(seen.entry, start);
    start.push_back(start_command(seen.entry, files));
    config.labels["io.caisson.start"] = json_text(start);
  } else if (seen.entry.forking || seen.init) {
    // Its first process leaves: an init stays until the daemon has ended. Or it cannot be the
    // first process, to which the orphans of all others come.
    Json start = Json::array({{{"args", seen.entry.argv}, {"forking", seen.entry.forking}}});
    config.labels["io.caisson.start"] = json_text(start);
  } else {
    config.entrypoint = seen.entry.argv;
  }
  config.env = seen.entry.env;
  if (std::none_of(config.env.begin(), config.env.end(), [](const std::string& e) { return e.starts_with("PATH="); }))
    config.env.insert(config.env.begin(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  config.working_dir = files.has(seen.entry.cwd) ? seen.entry.cwd : "/";
  if (seen.more.empty() && !seen.prepared) config.user = user_of(seen.entry);
  std::set<std::string> ports;
  for (const auto& p : seen.ports) ports.insert(std::to_string(p.number) + "/" + p.protocol);
  config.exposed_ports.assign(ports.begin(), ports.end());
  for (const auto& [folder, needed] : seen.state_folders)
    if (is_volume(folder) || seen.volumes.contains(folder)) config.volumes.push_back(folder);
  if (!seen.entry.ulimits.empty()) {
    Json ulimits = Json::array();
    for (const auto& [limit, value] : seen.entry.ulimits) ulimits.push_back(to_text(limit, value));
    config.labels["io.caisson.ulimits"] = json_text(ulimits);
  }
  if (!request.installation) {
    Json captured{{"made", Json::array()}, {"trees", Json::array()}, {"left_out", Json::array()}, {"state", Json::array()}};
    for (const auto& [path, item] : files.items())
      if (item.origin != "copied") captured["made"].push_back(path);
    for (const auto& [folder, rule] : files.trees())
      if (rule == "application" || rule == "configuration") captured["trees"].push_back(folder);
    for (const auto& s : files.secrets()) captured["left_out"].push_back(s.path);
    for (const auto& [folder, needed] : seen.state_folders) captured["state"].push_back(folder);
    config.labels[kCapturedLabel] = json_text(captured);
  }
  std::string from = request.pid != 0 ? "process" : "command";
  if (request.installation) from = request.installation->packages.empty() ? "installation" : "package " + join(request.installation->packages, ", ");
  config.labels["io.caisson.captured.from"] = from;
  return config;
}

}  // namespace

Result<> write_image(const CaptureRequest& request, const Seen& seen, const FileSet& files, const Packages& packages, image::Store& store) {
  auto writer = TRY(store.begin());
  oci::ImageConfig config = make_config(request, seen, files);
  oci::Manifest manifest;
  manifest.media_type = oci::kMediaManifest;
  auto layers = divide(files, seen, packages);
  for (const auto& layer : layers) {
    bool last = &layer == &layers.back();
    oci::Digest diff_id;
    manifest.layers.push_back(TRY(writer.add_blob(oci::kMediaLayerGzip, nullptr, [&](image::Sink& blob) -> Result<> {
      image::GzipSink gzip(blob);
      image::HashingSink bytes(gzip);
      image::TarWriter tar(bytes);
      TRY(write_layer(files, layer.paths, last ? seen.state : std::map<std::string, std::string>(), tar));
      diff_id = bytes.digest();
      return gzip.finish();
    }),
                                  "write the image"));
    config.diff_ids.push_back(diff_id);
    config.history.push_back({config.created, "caisson capture: " + layer.name, "", false});
  }
  manifest.config = TRY(writer.add_blob(oci::kMediaConfig, json_text(oci::to_json(config))));
  auto stored = TRY(writer.add_blob(oci::kMediaManifest, json_text(oci::to_json(manifest))));
  TRY(writer.stage(stored, {request.name}));
  return writer.commit();
}

}  // namespace caisson::capture
