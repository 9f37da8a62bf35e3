#include "oci/image.h"

namespace caisson::oci {
namespace {

void read_descriptor(JsonReader& r, Descriptor& out) {
  r.get("mediaType", out.media_type);
  r.get("size", out.size);
  std::string digest;
  r.get("digest", digest);
  if (auto parsed = Digest::parse(digest); parsed)
    out.digest = std::move(*parsed);
  else
    r.wrong("digest", parsed.error().message);
  r.get("annotations", out.annotations);
  r.get("artifactType", out.artifact_type);
  r.object("platform", [&](JsonReader& p) {
    p.get("architecture", out.architecture);
    p.get("os", out.os);
    p.get("variant", out.variant);
  });
}

Result<> finish(const JsonReader::State& state, std::string_view name) {
  if (!state.error.empty()) return fail(std::string(name) + ": " + state.error, EINVAL);
  return {};
}

/// "80/tcp" and volume paths are the keys of objects with empty values.
void read_keys(JsonReader& r, std::string_view key, std::vector<std::string>& out) {
  const Json* value = r.find(key);
  if (value == nullptr) return;
  if (!value->is_object()) return r.wrong(key, "expected an object");
  for (const auto& item : value->items()) out.push_back(item.key());
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view text, std::string_view name) {
  Json document = TRY(parse_json(text, name));
  JsonReader::State state;
  JsonReader r(document, "", state);
  Manifest out;
  r.get("mediaType", out.media_type);
  if (r.find("manifests") != nullptr) r.wrong("manifests", "a manifest must not also be an index");
  if (!r.object("config", [&](JsonReader& c) { read_descriptor(c, out.config); })) r.wrong("config", "is required");
  if (!r.each("layers", [&](JsonReader& l) { read_descriptor(l, out.layers.emplace_back()); })) r.wrong("layers", "is required");
  r.get("annotations", out.annotations);
  if (out.layers.size() > 512) r.wrong("layers", "more than 512 layers");
  TRY(finish(state, name));
  return out;
}

Result<Index> parse_index(std::string_view text, std::string_view name) {
  Json document = TRY(parse_json(text, name));
  JsonReader::State state;
  JsonReader r(document, "", state);
  Index out;
  if (r.find("layers") != nullptr) r.wrong("layers", "an index must not also be a manifest");
  if (!r.each("manifests", [&](JsonReader& m) { read_descriptor(m, out.manifests.emplace_back()); })) r.wrong("manifests", "is required");
  r.get("annotations", out.annotations);
  TRY(finish(state, name));
  return out;
}

Result<std::optional<Referrer>> referrer_of(const Json& document, std::string_view media_type, const Digest& digest, uint64_t size) {
  JsonReader::State state;
  JsonReader r(document, "", state);
  Referrer out{{}, {.media_type = std::string(media_type), .digest = digest, .size = size}};
  Descriptor subject, config;
  if (!r.object("subject", [&](JsonReader& s) { read_descriptor(s, subject); })) return std::nullopt;
  out.subject = subject.digest;
  r.object("config", [&](JsonReader& c) { read_descriptor(c, config); });
  r.get("artifactType", out.descriptor.artifact_type);
  if (out.descriptor.artifact_type.empty()) out.descriptor.artifact_type = config.media_type;
  r.get("annotations", out.descriptor.annotations);
  TRY(finish(state, "manifest"));
  return out;
}

Result<ImageConfig> parse_image_config(std::string_view text, std::string_view name) {
  Json document = TRY(parse_json(text, name));
  JsonReader::State state;
  JsonReader r(document, "", state);
  ImageConfig out;
  r.get("created", out.created);
  r.get("architecture", out.architecture);
  r.get("os", out.os);
  r.get("author", out.author);
  r.object("config", [&](JsonReader& c) {
    c.get("User", out.user);
    c.get("WorkingDir", out.working_dir);
    c.get("StopSignal", out.stop_signal);
    c.get("Env", out.env);
    c.get("Entrypoint", out.entrypoint);
    c.get("Cmd", out.cmd);
    c.get("Labels", out.labels);
    c.get("Shell", out.shell);
    c.get("OnBuild", out.on_build);
    if (const Json* check = c.find("Healthcheck"); check != nullptr) out.healthcheck = *check;
    read_keys(c, "ExposedPorts", out.exposed_ports);
    read_keys(c, "Volumes", out.volumes);
  });
  if (!r.object("rootfs", [&](JsonReader& fs) {
        std::vector<std::string> ids;
        fs.get("diff_ids", ids);
        for (size_t i = 0; i < ids.size(); ++i) {
          if (auto digest = Digest::parse(ids[i]); digest)
            out.diff_ids.push_back(std::move(*digest));
          else
            fs.wrong("diff_ids[" + std::to_string(i) + "]", digest.error().message);
        }
      }))
    r.wrong("rootfs", "is required");
  r.each("history", [&](JsonReader& h) {
    auto& item = out.history.emplace_back();
    h.get("created", item.created);
    h.get("created_by", item.created_by);
    h.get("comment", item.comment);
    h.get("empty_layer", item.empty_layer);
  });
  TRY(finish(state, name));
  return out;
}

Json to_json(const Descriptor& d) {
  Json out{{"mediaType", d.media_type}, {"digest", d.digest.str()}, {"size", d.size}};
  if (!d.architecture.empty()) out["platform"] = {{"architecture", d.architecture}, {"os", d.os}};
  if (!d.variant.empty()) out["platform"]["variant"] = d.variant;
  if (!d.artifact_type.empty()) out["artifactType"] = d.artifact_type;
  if (!d.annotations.empty()) out["annotations"] = d.annotations;
  return out;
}

Json to_json(const Manifest& m) {
  Json out{{"schemaVersion", 2}, {"mediaType", m.media_type}, {"config", to_json(m.config)}, {"layers", Json::array()}};
  for (const auto& layer : m.layers) out["layers"].push_back(to_json(layer));
  if (!m.annotations.empty()) out["annotations"] = m.annotations;
  return out;
}

Json to_json(const Index& index) {
  Json out{{"schemaVersion", 2}, {"mediaType", kMediaIndex}, {"manifests", Json::array()}};
  for (const auto& m : index.manifests) out["manifests"].push_back(to_json(m));
  if (!index.annotations.empty()) out["annotations"] = index.annotations;
  return out;
}

Json to_json(const ImageConfig& c) {
  Json config = Json::object();
  if (!c.user.empty()) config["User"] = c.user;
  if (!c.exposed_ports.empty())
    for (const auto& port : c.exposed_ports) config["ExposedPorts"][port] = Json::object();
  if (!c.env.empty()) config["Env"] = c.env;
  if (!c.entrypoint.empty()) config["Entrypoint"] = c.entrypoint;
  if (!c.cmd.empty()) config["Cmd"] = c.cmd;
  if (!c.volumes.empty())
    for (const auto& volume : c.volumes) config["Volumes"][volume] = Json::object();
  if (!c.working_dir.empty()) config["WorkingDir"] = c.working_dir;
  if (!c.labels.empty()) config["Labels"] = c.labels;
  if (!c.stop_signal.empty()) config["StopSignal"] = c.stop_signal;
  if (!c.shell.empty()) config["Shell"] = c.shell;
  if (!c.on_build.empty()) config["OnBuild"] = c.on_build;
  if (!c.healthcheck.is_null()) config["Healthcheck"] = c.healthcheck;
  Json out = Json::object();
  if (!c.created.empty()) out["created"] = c.created;
  if (!c.author.empty()) out["author"] = c.author;
  out["architecture"] = c.architecture;
  out["os"] = c.os;
  out["config"] = std::move(config);
  out["rootfs"] = {{"type", "layers"}, {"diff_ids", Json::array()}};
  for (const auto& id : c.diff_ids) out["rootfs"]["diff_ids"].push_back(id.str());
  for (const auto& h : c.history) {
    Json item = Json::object();
    if (!h.created.empty()) item["created"] = h.created;
    if (!h.created_by.empty()) item["created_by"] = h.created_by;
    if (!h.comment.empty()) item["comment"] = h.comment;
    if (h.empty_layer) item["empty_layer"] = true;
    out["history"].push_back(std::move(item));
  }
  return out;
}

}  // namespace caisson::oci
