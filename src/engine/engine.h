// The engine: containers by name, with images, networks and volumes. Without
// a daemon: every call works on the disk, and repairs first what a killed
// command or monitor left.
#pragma once

#include <optional>

#include "engine/containers.h"
#include "image/store.h"
#include "network/network.h"
#include "runtime/runtime.h"
#include "volumes/volumes.h"

namespace caisson::engine {

/// Of containers that verify a capture or are part of a build: the name of its scratch folder in
/// the data root, "tmp.capture.…" or "tmp.build.…", which holds a locked file "lock". They go with
/// it where the command was killed.
inline constexpr const char* kScratchLabel = "io.caisson.scratch";

class Engine {
 public:
  /// Needs root, which a user is in namespaces of its own (rootless/rootless.h). `run_root` is emptied by a reboot.
  [[nodiscard]] static Result<Engine> open(const std::string& root, const std::string& run_root);

  /// Completes the configuration from the image, takes a name and an address.
  [[nodiscard]] Result<Container> create(ContainerConfig config, const std::string& image);
  /// The same with an image that the store need not know by name.
  [[nodiscard]] Result<Container> create(ContainerConfig config, const image::Image& image, const std::string& image_name);
  /// Starts it; `client` (an end of a SOCK_SEQPACKET pair, or invalid) is
  /// attached from the first byte on.
  [[nodiscard]] Result<> start(const std::string& id, Fd client);
  /// Asks it to end, then kills it after `timeout` seconds (-1: its own).
  [[nodiscard]] Result<> stop(const Container& container, int timeout);
  [[nodiscard]] Result<> kill(const Container& container, int signal);
  [[nodiscard]] Result<> remove(const Container& container, bool force, bool volumes);
  /// Refused while containers have addresses in it.
  [[nodiscard]] Result<> remove_network(const std::string& name) const;
  /// Until it is not running; returns its exit code.
  [[nodiscard]] Result<int> wait(const std::string& id) const;
  /// Adopts, finishes or removes what was left. Called by open().
  void recover();
  /// Starts what its restart policy wants running (after a reboot).
  [[nodiscard]] Result<int> start_all();
  /// Removes everything: containers, networks, volumes, images, the folders.
  [[nodiscard]] Result<> reset();
  /// Of each container and each step of a build that is remembered, the diff ids of its layers.
  [[nodiscard]] Result<std::set<std::vector<std::string>>> layers_in_use() const;

  [[nodiscard]] Containers& containers() { return containers_; }
  [[nodiscard]] network::Networks& networks() { return networks_; }
  [[nodiscard]] volumes::Volumes& volumes() { return volumes_; }
  [[nodiscard]] runtime::Runtime& runtime() { return runtime_; }
  [[nodiscard]] const std::string& root() const { return root_; }
  [[nodiscard]] const std::string& run_root() const { return run_root_; }
  [[nodiscard]] Result<image::Store> images() const { return image::Store::open(root_); }

 private:
  Engine(const std::string& root, const std::string& run_root)
      : root_(root), run_root_(run_root), containers_(root, run_root), networks_(root), volumes_(root), runtime_(run_root + "/oci") {}
  [[nodiscard]] Result<> spawn_monitor(const std::string& id, bool adopt, Fd client);
  void recover_one(const std::string& id);
  void sweep_leases();
  void sweep_scratch();
  void sweep_images();

  std::string root_, run_root_;
  Containers containers_;
  network::Networks networks_;
  volumes::Volumes volumes_;
  runtime::Runtime runtime_;
};

}  // namespace caisson::engine
