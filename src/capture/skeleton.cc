#include "capture/skeleton.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

constexpr const char* kArchives = "/var/cache/apt/archives";

Result<> check_run(SpawnOptions options, const std::string& what) {
  auto out = TRY(run_and_capture(std::move(options)), what);
  if (out.status.code != 0) {
    auto lines = split(trim(out.err.empty() ? out.out : out.err), '\n');
    return fail(what + ": " + std::string(trim(lines.back())));
  }
  return {};
}

Result<> check_name(const std::string& package) {
  if (package.empty() || package[0] == '-' || package.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+-.:") != std::string::npos) return fail("\"" + package + "\" is not the name of a Debian package");
  return {};
}

}  // namespace

Result<> unpack_skeleton(const std::vector<std::string>& packages, const std::string& scratch, const std::string& root, const Progress& progress) {
  for (const auto& package : packages) TRY(check_name(package));
  if (::access("/usr/bin/apt-get", X_OK) != 0 || ::access("/usr/bin/dpkg-deb", X_OK) != 0) return fail("this needs apt-get and dpkg-deb on this host");
  std::string archives = root + kArchives;
  TRY(make_dirs(archives + "/partial"));
  // Where systems since Debian 12 have these folders.
  for (const char* folder : {"bin", "sbin", "lib", "lib64"}) {
    TRY(make_dirs(root + "/usr/" + folder));
    if (::symlink(("usr/" + std::string(folder)).c_str(), (root + "/" + folder).c_str()) < 0) return fail_errno("create " + root + "/" + folder);
  }
  TRY(replace_file(scratch + "/status", "", 0644));
  progress("downloading the base system" + (packages.empty() ? "" : ", " + join(packages, ", ")) + " and what they need");
  SpawnOptions apt;
  // An empty status file makes apt think that nothing is installed yet.
  apt.argv = {"apt-get", "-y", "-q", "-o", "Dir::State::Status=" + scratch + "/status", "-o", "Dir::Cache::Archives=" + archives, "-o", "APT::Sandbox::User=root", "--no-install-recommends", "--download-only", "install", "?essential", "apt", "ca-certificates"};
  apt.argv.insert(apt.argv.end(), packages.begin(), packages.end());
  apt.env = std::vector<std::string>{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"};
  for (const char* name : {"http_proxy", "https_proxy", "no_proxy"})
    if (const char* value = ::getenv(name); value != nullptr) apt.env->push_back(std::string(name) + "=" + value);
  TRY(check_run(std::move(apt), "apt-get (run \"apt-get update\" once if it does not know a package)"));

  int count = 0;
  for (const auto& name : TRY(list_dir(archives))) {
    if (!name.ends_with(".deb")) continue;
    SpawnOptions unpack;
    unpack.argv = {"dpkg-deb", "-x", archives + "/" + name, root};
    TRY(check_run(std::move(unpack), "unpack " + name));
    ++count;
  }
  if (count == 0) return fail("apt-get downloaded nothing");
  progress("unpacked " + std::to_string(count) + " packages");
  return {};
}

std::vector<std::string> configure_command() {
  // All is there already, so that each program that a maintainer script wants can run;
  // dpkg gets to know of it in the order in which a first installation does.
  return {"/bin/sh", "-ec", R"(
cd /var/cache/apt/archives
quick=--force-unsafe-io  # a crash costs no more than doing it again
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates
touch /var/lib/dpkg/status /var/lib/dpkg/available
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
# No service starts while it is being installed (invoke-rc.d(8)).
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
dpkg $quick --force-depends --install base-passwd_*.deb
dpkg $quick --force-depends --install base-files_*.deb dpkg_*.deb libc6_*.deb perl-base_*.deb mawk_*.deb
dpkg $quick --force-depends --force-overwrite --force-confold --unpack *.deb
dpkg $quick --force-confold --configure -a
rm -f /usr/sbin/policy-rc.d *.deb
)"};
}

}  // namespace caisson::capture
