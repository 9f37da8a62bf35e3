// How others run a captured image: files for Compose, Kubernetes and ECS, and the
// Dockerfile that comes nearest to it.
#pragma once

#include "base/json.h"
#include "image/store.h"

namespace caisson::capture {

/// Text of compose.yaml (compose-spec). `report`: of the capture.
[[nodiscard]] std::string compose_file(const image::Image& image, const std::string& name, const Json& report);
/// One of several applications that were captured apart from each other.
struct ComposePart {
  image::Image image;
  std::string name;
  Json report;
  std::string folder;  ///< with its other outputs, below that of the compose file
};
/// Text of one compose.yaml for all, started in this order; they share the first one's network.
[[nodiscard]] std::string compose_file(const std::vector<ComposePart>& parts);
/// A Deployment, or a StatefulSet where the image keeps data, a Service for its ports
/// and the Secrets that it refers to: several YAML documents.
[[nodiscard]] std::string kubernetes_manifests(const image::Image& image, const std::string& name, const Json& report);
/// A task definition of Amazon ECS (RegisterTaskDefinition).
[[nodiscard]] Json ecs_task_definition(const image::Image& image, const std::string& name, const Json& report);
/// The packages and files by which the same could be built.
[[nodiscard]] std::string dockerfile(const image::Image& image, const Json& report);

/// What the compose file calls the volume of a folder, with the image's name before it.
[[nodiscard]] std::string volume_name(const std::string& image, const std::string& folder);

}  // namespace caisson::capture
