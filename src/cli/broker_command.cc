// The service that mounts images for users without root.
#include "cli/commands.h"
#include "image/mount_broker.h"

namespace caisson::cli {
namespace {

Result<int> cmd_mount_broker(const Globals& globals, const Args& args) {
  image::BrokerOptions options;
  options.socket = args.get("socket", image::kMountBroker);
  options.folder = globals.root + "/broker";
  return image::run_mount_broker(options);
}

constexpr Option kOptions[] = {{"--socket", "FILE", "where users ask (default: /run/caisson-broker/mount.sock)"}};

}  // namespace

const Command kMountBrokerCommand{"mount-broker", "", "mount the images of users without root for them, so that they need not unpack layers", "systemd-run --unit caisson-mount-broker caisson mount-broker", kOptions, 0, 0, false, false, cmd_mount_broker, 1, true};

}  // namespace caisson::cli
