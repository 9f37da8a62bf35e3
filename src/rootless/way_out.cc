#include "rootless/way_out.h"

#include <linux/rtnetlink.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::rootless {
namespace {

void end_leftover(const std::string& record) {
  auto words = split(read_file(record, 64).value_or(""), ' ');
  if (words.size() != 2) return;
  auto pid = parse_uint(words[0], INT32_MAX), start = parse_uint(words[1]);
  if (!pid || !start) return;
  auto process = open_pidfd(static_cast<pid_t>(*pid));
  if (process && process_start_time(static_cast<pid_t>(*pid)).value_or(0) == *start) ::syscall(SYS_pidfd_send_signal, process->get(), SIGKILL, nullptr, 0);
}

}  // namespace

Result<> WayOut::begin() {
  std::string record = folder_ + "/way-out";
  end_leftover(record);
  std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(network_);
  // Neither lets containers reach what listens on the host's loopback alone, or lets anybody in. The
  // pasta of Debian 12 does not pass on the end of a stream whose other direction has ended.
  const std::vector<std::string> programs[] = {
      {"slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-ipv6", "--netns-type=path", path, "tap0"},
      {"pasta", "--foreground", "--quiet", "--config-net", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-netns-quit", "--netns", path}};
  Fd null = TRY(open_file("/dev/null", O_RDWR));
  for (const auto& argv : programs) {
    SpawnOptions options;
    options.argv = argv;
    options.stdin_fd = options.stdout_fd = null.get();
    // As long as it stays who it is; for later there is the record.
    options.ends_with_parent = true;
    auto begun = spawn(options);
    if (!begun && (begun.error().code == ENOENT || begun.error().code == EACCES)) continue;
    process_ = TRY(std::move(begun));
    program_ = argv[0];
    return replace_file(record, std::to_string(process_.pid()) + " " + std::to_string(TRY(process_start_time(process_.pid()))));
  }
  return fail("neither slirp4netns nor pasta (Debian's package passt) is installed", ENOENT);
}

Result<> WayOut::await() {
  constexpr int kStep = 5, kLongest = 5'000;  // ms
  for (int waited = 0; waited < kLongest; waited += kStep) {
    struct pollfd ended = {process_.pidfd(), POLLIN, 0};
    if (TRY(has_default_route())) return {};
    if (::poll(&ended, 1, kStep) > 0) return fail(program_ + " has ended at once (" + folder_ + "/keeper.log has what it said)");
  }
  return fail(program_ + " has made no default route");
}

Result<bool> WayOut::has_default_route() {
  bool found = false;
  struct rtmsg header = {};
  header.rtm_family = AF_UNSPEC;
  TRY(route_.dump(sys::NetlinkMessage(RTM_GETROUTE, 0).header(header), [&](uint16_t, std::string_view payload) {
    struct rtmsg route;
    if (payload.size() < sizeof route) return;
    std::memcpy(&route, payload.data(), sizeof route);
    found |= route.rtm_dst_len == 0 && route.rtm_type == RTN_UNICAST && route.rtm_table == RT_TABLE_MAIN;
  }));
  return found;
}

}  // namespace caisson::rootless
