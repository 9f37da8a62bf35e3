#include "engine/remove.h"

#include "base/log.h"
#include "engine/meeting_folder.h"
#include "volumes/volumes.h"

namespace caisson::engine {

Result<> remove_container(const Containers& containers, const network::Networks& networks, const runtime::Runtime& runtime, const std::string& root, const Container& c, bool anonymous_volumes) {
  TRY(runtime.remove(c.config.id, true));
  TRY(containers.remove(c));
  // After the container, so that nobody gets the address while it lives.
  if (!c.endpoint.ip.empty()) MeetingFolder(containers.run_root()).remove(c.endpoint);
  if (!c.endpoint.ip.empty()) networks.release(c.endpoint.network, c.endpoint.ip, c.config.id);
  if (anonymous_volumes) {
    volumes::Volumes volumes(root);
    for (const auto& m : c.config.mounts)
      if (m.type == "volume" && m.source.size() == 32 && m.source.find_first_not_of("0123456789abcdef") == std::string::npos)
        if (auto ok = volumes.remove(m.source); !ok && ok.error().code != ENOENT) log::warning(ok.error().message);
  }
  return {};
}

}  // namespace caisson::engine
