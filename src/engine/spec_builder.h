// From what was asked for to the document that the runtime carries out.
#pragma once

#include "elements/elements.h"
#include "engine/containers.h"
#include "engine/id_range.h"
#include "oci/spec.h"
#include "sys/in_root.h"

namespace caisson::engine {

struct SpecInputs {
  const Container* container = nullptr;
  const sys::RootDir* rootfs = nullptr;  ///< the mounted root, to look up users in
  std::string root;                      ///< data root: volumes live there
  std::string run_folder;                ///< of the container: hosts, resolv.conf, hostname
  int netns = -1;                        ///< network namespace made for it; -1: the host's
  int user_namespace = -1;               ///< -1: the host's
  const IdRange* ids = nullptr;          ///< of its user namespace
  elements::Place place;                 ///< in one of Caisson's networks
  std::string meeting;                   ///< where the containers of its network meet (engine/meeting_folder.h)
};
/// Makes the spec, and the files in the run folder that it mounts.
[[nodiscard]] Result<oci::Spec> build_spec(const SpecInputs& inputs);

/// Limits of processes that an image would have, a JSON list of what --ulimit takes. They hold as
/// far as the hard limits that the container has anyway.
inline constexpr const char* kUlimitsLabel = "io.caisson.ulimits";
[[nodiscard]] Result<std::vector<oci::Rlimit>> ulimits_of_image(const ContainerConfig& config);

/// The elements that a container asks for.
[[nodiscard]] Result<std::vector<elements::Selection>> selected_elements(const ContainerConfig& config);

/// The capabilities after --cap-add and --cap-drop.
[[nodiscard]] Result<std::vector<std::string>> effective_capabilities(const ContainerConfig& config);

/// One more process in the container (`caisson exec`).
struct ExecRequest {
  std::vector<std::string> args, env;
  std::string user, cwd;
  bool tty = false, privileged = false;
};
[[nodiscard]] Result<oci::Process> build_exec(const ContainerConfig& config, const sys::RootDir& rootfs, const ExecRequest& request);

}  // namespace caisson::engine
