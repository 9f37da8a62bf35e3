#include "capture/manifests.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "base/strings.h"
#include "base/yaml.h"
#include "oci/spec.h"

namespace caisson::capture {
namespace {

/// A DNS label out of an image's name: "registry/shop:1.0" → "shop".
std::string label_of(const std::string& name) {
  std::string base(base_name(name));
  base = base.substr(0, base.find_first_of(":@"));
  std::string out;
  for (char c : base) out += std::isalnum(static_cast<unsigned char>(c)) != 0 ? static_cast<char>(std::tolower(static_cast<unsigned char>(c))) : '-';
  while (!out.empty() && out[0] == '-') out.erase(0, 1);
  while (out.ends_with('-')) out.pop_back();
  return out.empty() ? "app" : out.substr(0, 50);
}
/// A name for a path: "/var/lib/shop" → "var-lib-shop".
std::string name_of(const std::string& path) {
  std::string text = path.substr(path.starts_with('/') ? 1 : 0);
  std::replace(text.begin(), text.end(), '/', '-');
  return label_of(text);
}

struct Port {
  int number;
  std::string protocol;
};
std::vector<Port> ports_of(const image::Image& image) {
  std::vector<Port> out;
  for (const auto& text : image.config.exposed_ports) {
    size_t slash = text.find('/');
    out.push_back({static_cast<int>(parse_uint(text.substr(0, slash), 65535).value_or(0)), slash == std::string::npos ? "tcp" : text.substr(slash + 1)});
  }
  return out;
}

bool read_only(const Json& report) { return report["verification"].value("read_only", false) && report["verification"]["result"] == "passed"; }

/// The capabilities with which it passed; nothing where it was not confined.
std::optional<std::vector<std::string>> capabilities(const Json& report) {
  if (!report["verification"].value("confined", false) || report["verification"]["result"] != "passed") return {};
  return report["confinement"]["capabilities"].get<std::vector<std::string>>();
}

/// "CAP_CHOWN" → "CHOWN", as Compose and Kubernetes have it.
std::vector<std::string> short_names(std::vector<std::string> names) {
  for (auto& name : names) name.erase(0, 4);
  return names;
}

/// Folders that a read-only root needs in memory.
std::vector<std::string> memory_folders(const Json& report) {
  return read_only(report) ? report["writable"].get<std::vector<std::string>>() : std::vector<std::string>();
}

/// Whether the image has files there, which an empty volume would hide.
bool has_content(const Json& report, const std::string& folder) {
  const Json& files = report["files"];
  bool files_there = std::any_of(files.begin(), files.end(), [&](const Json& file) { return file["type"] != "folder" && file["path"].get<std::string>().starts_with(folder + "/"); });
  return files_there || (report["state"].contains(folder) && report["state"][folder] == "copied");
}

/// "33:33" → 33; nothing for names, which only the image knows.
std::optional<uint64_t> user_number(const std::string& user) {
  auto number = parse_uint(user.substr(0, user.find(':')), UINT32_MAX);
  return number ? std::optional<uint64_t>(*number) : std::nullopt;
}

/// Volumes that an orchestrator may make empty.
std::vector<std::string> empty_volumes(const image::Image& image, const Json& report) {
  std::vector<std::string> out = image.config.volumes;
  std::erase_if(out, [&](const std::string& folder) { return has_content(report, folder); });
  return out;
}

constexpr const char* kNote = "# Made by caisson capture.\n";

}  // namespace

namespace {

/// Adds a service to a compose document, with its volumes and secrets. `folder`: where its files
/// are, seen from the compose file; `beside`: the service whose network it shares, or "".
void add_service(Json& out, const image::Image& image, const std::string& name, const Json& report, const std::string& folder, const std::string& beside, const std::vector<Port>& published) {
  std::string label = label_of(name);
  Json service{{"image", name}, {"restart", "unless-stopped"}, {"security_opt", {"no-new-privileges:true"}}};
  if (auto needed = capabilities(report); needed) {
    service["cap_drop"] = {"ALL"};
    if (!needed->empty()) service["cap_add"] = short_names(*needed);
    service["security_opt"].push_back("seccomp:" + folder + "/seccomp.json");
  }
  for (const auto& p : published) service["ports"].push_back(std::to_string(p.number) + ":" + std::to_string(p.number) + (p.protocol == "tcp" ? "" : "/" + p.protocol));
  if (!beside.empty()) {
    service["network_mode"] = "service:" + beside;
    service["depends_on"] = {beside};
  }
  if (!report["ulimits"].empty()) service["ulimits"] = report["ulimits"];
  if (read_only(report)) service["read_only"] = true;
  // Not tmpfs: a volume without a name has the image's own folders in it, with their owners.
  for (const auto& writable : memory_folders(report)) service["volumes"].push_back(writable);
  // Of several services, each has its own.
  std::string prefix = folder == "." ? "" : label + "-";
  for (const auto& kept : image.config.volumes) {
    service["volumes"].push_back(prefix + name_of(kept) + ":" + kept);
    out["volumes"][prefix + name_of(kept)] = Json::object();
  }
  for (const auto& secret : report["secrets"]) {
    std::string path = secret["path"].get<std::string>();
    service["secrets"].push_back({{"source", prefix + name_of(path)}, {"target", path}});
    out["secrets"][prefix + name_of(path)] = {{"file", folder + "/secrets/" + name_of(path)}};
  }
  // Compose stops with this message where the variable is not set.
  for (const auto& variable : report["secret_variables"]) service["environment"][variable.get<std::string>()] = "${" + variable.get<std::string>() + ":?the capture left this secret out}";
  out["services"][label] = std::move(service);
}

}  // namespace

std::string compose_file(const image::Image& image, const std::string& name, const Json& report) {
  Json out;
  add_service(out, image, name, report, ".", "", ports_of(image));
  return kNote + yaml_text(out);
}

std::string compose_file(const std::vector<ComposePart>& parts) {
  Json out;
  // They have found each other at addresses of one machine: so they do here. The ports of all
  // belong to the first one, whose network it is.
  std::vector<Port> ports;
  for (const auto& part : parts)
    for (auto& p : ports_of(part.image)) ports.push_back(std::move(p));
  for (const auto& part : parts) {
    bool first = &part == &parts.front();
    add_service(out, part.image, part.name, part.report, "./" + part.folder, first ? "" : label_of(parts.front().name), first ? ports : std::vector<Port>());
  }
  return kNote + yaml_text(out);
}

std::string kubernetes_manifests(const image::Image& image, const std::string& name, const Json& report) {
  std::string label = label_of(name);
  Json labels{{"app.kubernetes.io/name", label}};
  auto volumes = empty_volumes(image, report);
  bool keeps_data = !volumes.empty();
  // What has to be written beside data in the image needs a root that can be.
  bool plain_root = volumes.size() != image.config.volumes.size();
  Json security{{"allowPrivilegeEscalation", false}, {"readOnlyRootFilesystem", read_only(report) && !plain_root}, {"seccompProfile", {{"type", "RuntimeDefault"}}}};
  if (auto user = user_number(image.config.user); user && *user != 0) {
    security["runAsNonRoot"] = true;
    security["runAsUser"] = *user;
  }
  if (auto needed = capabilities(report); needed) {
    security["capabilities"]["drop"] = {"ALL"};
    if (!needed->empty()) security["capabilities"]["add"] = short_names(*needed);
  }
  Json container{{"name", label}, {"image", name}, {"securityContext", std::move(security)}};
  Json pod = Json::object(), claims = Json::array(), ports = Json::array();
  std::optional<int> first_tcp;
  for (const auto& p : ports_of(image)) {
    std::string port_name = p.protocol + "-" + std::to_string(p.number), protocol = p.protocol == "udp" ? "UDP" : "TCP";
    container["ports"].push_back({{"name", port_name}, {"containerPort", p.number}, {"protocol", protocol}});
    ports.push_back({{"name", port_name}, {"port", p.number}, {"targetPort", port_name}, {"protocol", protocol}});
    if (!first_tcp && p.protocol == "tcp") first_tcp = p.number;
  }
  if (first_tcp) {
    Json probe{{"tcpSocket", {{"port", *first_tcp}}}, {"periodSeconds", 10}};
    container["readinessProbe"] = probe;
    container["livenessProbe"] = std::move(probe);
    container["livenessProbe"]["initialDelaySeconds"] = 10;
  }
  for (const auto& variable : report["secret_variables"]) container["env"].push_back({{"name", variable}, {"valueFrom", {{"secretKeyRef", {{"name", label + "-secrets"}, {"key", variable}}}}}});
  std::string hidden;
  for (const auto& folder : image.config.volumes)
    if (has_content(report, folder))
      hidden += "# " + folder + " has data in the image, which an empty volume would hide: what is written there is\n# lost with the pod. To keep it, fill a volume with that data and mount it there.\n";
  for (const auto& folder : volumes) {
    container["volumeMounts"].push_back({{"name", name_of(folder)}, {"mountPath", folder}});
    claims.push_back({{"metadata", {{"name", name_of(folder)}}}, {"spec", {{"accessModes", {"ReadWriteOnce"}}, {"resources", {{"requests", {{"storage", "1Gi"}}}}}}}});
  }
  for (const auto& folder : memory_folders(report)) {
    container["volumeMounts"].push_back({{"name", name_of(folder)}, {"mountPath", folder}});
    pod["volumes"].push_back({{"name", name_of(folder)}, {"emptyDir", {{"medium", "Memory"}}}});
  }
  for (const auto& secret : report["secrets"]) {
    std::string path = secret["path"].get<std::string>();
    container["volumeMounts"].push_back({{"name", "secrets"}, {"mountPath", path}, {"subPath", name_of(path)}, {"readOnly", true}});
  }
  bool has_secrets = !report["secrets"].empty();
  if (has_secrets) pod["volumes"].push_back({{"name", "secrets"}, {"secret", {{"secretName", label + "-secrets"}}}});
  Json containers = Json::array();
  containers.push_back(std::move(container));
  pod["containers"] = std::move(containers);
  Json spec{{"replicas", 1}, {"selector", {{"matchLabels", labels}}}};
  if (keeps_data) spec["serviceName"] = label;
  spec["template"] = {{"metadata", {{"labels", labels}}}, {"spec", std::move(pod)}};
  if (keeps_data) spec["volumeClaimTemplates"] = std::move(claims);
  std::string out = kNote + hidden;
  if (has_secrets || !report["secret_variables"].empty())
    out += "# It refers to the Secret " + label + "-secrets, which this file does not hold. Make it first:\n#   kubectl create secret generic " + label + "-secrets" +
           [&] {
             std::string keys;
             for (const auto& secret : report["secrets"]) keys += " --from-file=" + name_of(secret["path"].get<std::string>()) + "=FILE";
             for (const auto& variable : report["secret_variables"]) keys += " --from-literal=" + variable.get<std::string>() + "=VALUE";
             return keys;
           }() +
           "\n";
  out += yaml_text({{"apiVersion", "apps/v1"}, {"kind", keeps_data ? "StatefulSet" : "Deployment"}, {"metadata", {{"name", label}, {"labels", labels}}}, {"spec", std::move(spec)}});
  if (!ports.empty()) out += "---\n" + yaml_text({{"apiVersion", "v1"}, {"kind", "Service"}, {"metadata", {{"name", label}, {"labels", labels}}}, {"spec", {{"selector", labels}, {"ports", std::move(ports)}}}});
  return out;
}

Json ecs_task_definition(const image::Image& image, const std::string& name, const Json& report) {
  std::string label = label_of(name);
  auto volumes = empty_volumes(image, report);
  Json container{{"name", label}, {"image", name}, {"essential", true}, {"readonlyRootFilesystem", read_only(report) && volumes.size() == image.config.volumes.size()}};
  for (const auto& p : ports_of(image)) container["portMappings"].push_back({{"containerPort", p.number}, {"hostPort", p.number}, {"protocol", p.protocol}});
  if (auto needed = capabilities(report); needed) {
    // Fargate adds none; of its own, which are Docker's, it takes away.
    auto dropped = oci::default_capabilities();
    std::erase_if(dropped, [&](const std::string& name) { return std::find(needed->begin(), needed->end(), name) != needed->end(); });
    for (const char* more : {"CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_RAW"}) dropped.emplace_back(more);
    container["linuxParameters"]["capabilities"]["drop"] = short_names(dropped);
  }
  for (const auto& limit : report["ulimits"].items()) container["ulimits"].push_back({{"name", limit.key()}, {"softLimit", limit.value()["soft"]}, {"hardLimit", limit.value()["hard"]}});
  Json out{{"family", label}, {"networkMode", "awsvpc"}, {"requiresCompatibilities", {"FARGATE"}}, {"cpu", "256"}, {"memory", "512"}};
  for (const auto& folder : volumes) {
    container["mountPoints"].push_back({{"sourceVolume", name_of(folder)}, {"containerPath", folder}});
    out["volumes"].push_back({{"name", name_of(folder)}});
  }
  // In place of tmpfs, which Fargate has not.
  for (const auto& folder : memory_folders(report)) {
    container["mountPoints"].push_back({{"sourceVolume", name_of(folder)}, {"containerPath", folder}});
    out["volumes"].push_back({{"name", name_of(folder)}});
  }
  for (const auto& variable : report["secret_variables"]) container["secrets"].push_back({{"name", variable}, {"valueFrom", "ARN-OF-" + variable.get<std::string>()}});
  Json containers = Json::array();
  containers.push_back(std::move(container));
  out["containerDefinitions"] = std::move(containers);
  return out;
}

std::string dockerfile(const image::Image& image, const Json& report) {
  std::string out = "# What comes nearest to this capture. The image itself is smaller: it has of each\n# package only what is used.\nFROM debian:stable-slim\n";
  std::vector<std::string> packages;
  for (const auto& item : report["packages"].items())
    if (item.key() != "base-files" && item.key() != "libc6") packages.push_back(item.key());
  std::sort(packages.begin(), packages.end());
  if (!packages.empty()) out += "RUN apt-get update && apt-get install -y --no-install-recommends \\\n      " + join(packages, " \\\n      ") + " \\\n    && rm -rf /var/lib/apt/lists/*\n";
  for (const auto& file : report["files"])
    if (file["type"] == "file" && !file.contains("package") && file["origin"] != "made") out += "COPY " + file["path"].get<std::string>().substr(1) + " " + file["path"].get<std::string>() + "\n";
  for (const auto& e : image.config.env) {
    size_t equals = e.find('=');
    out += "ENV " + e.substr(0, equals) + "=" + json_text(Json(e.substr(equals + 1))) + "\n";
  }
  for (const auto& p : image.config.exposed_ports) out += "EXPOSE " + p + "\n";
  if (!image.config.volumes.empty()) out += "VOLUME " + json_text(Json(image.config.volumes)) + "\n";
  if (!image.config.user.empty()) out += "USER " + image.config.user + "\n";
  if (!image.config.working_dir.empty()) out += "WORKDIR " + image.config.working_dir + "\n";
  if (!image.config.entrypoint.empty()) out += "ENTRYPOINT " + json_text(Json(image.config.entrypoint)) + "\n";
  return out;
}

std::string volume_name(const std::string& image, const std::string& folder) { return label_of(image) + "-" + name_of(folder); }

}  // namespace caisson::capture
