// The host's side of elements: user-mode stand-ins for services of the kernel, loaded into
// the programs of a container (the libraries themselves are in /elements).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"
#include "sys/in_root.h"

namespace caisson::elements {

/// What `caisson element ls` shows.
struct Element {
  std::string_view name, summary, options;
};
[[nodiscard]] const std::vector<Element>& catalogue();

/// "clock=2027-03-01T00:00:00Z,rate=10": a name of the catalogue and what is asked of it.
struct Selection {
  std::string name, options;
};
/// Fails, and names the option, where the element does not know it. Of what it names on the host
/// nothing is looked at.
[[nodiscard]] Result<Selection> parse_selection(const std::string& text);

/// What the annotations io.caisson.element.NAME ask for, whose values are the options;
/// in the order of the catalogue.
[[nodiscard]] Result<std::vector<Selection>> from_annotations(const oci::Spec& spec);
inline constexpr const char* kAnnotationPrefix = "io.caisson.element.";
/// "true": what cannot have the elements must not start.
inline constexpr const char* kRequiredAnnotation = "io.caisson.elements-required";
/// Label of an image that asks for elements: a JSON list of selections as text.
inline constexpr const char* kImageLabel = "io.caisson.elements";

/// Moments that settings are counted from, in nanoseconds; of the host's clocks.
struct Moment {
  int64_t wall = 0, monotonic = 0, boot = 0;
};
[[nodiscard]] Moment this_moment();

/// A container's place in one of Caisson's networks.
struct Place {
  std::string address, address6, gateway, gateway6, mac;  ///< as text; "": none
  int prefix = 24;
};

struct Injection {
  std::string libraries;  ///< folder for the libraries, which all containers share
  std::string settings;   ///< folder of this container's, of which the files here are replaced
  bool required = false;
  Place place;          ///< for "sockets" and "network"; its address is empty where there is none
  std::string meeting;  ///< for "sockets": the folder where its network meets
  std::string control;  ///< for "network": the folder of the socket that its stack is asked on
};
/// Adds to the spec what loads the elements: mounts at /.caisson and /etc/ld.so.preload, and
/// LD_PRELOAD where the root has musl. With `required`, a first program that cannot load
/// them (a static one) is an error that says so.
[[nodiscard]] Result<> inject(const std::vector<Selection>& selections, const Injection& where, const sys::RootDir& root, const Moment& now, oci::Spec& spec);

/// The command that starts a program: where it may lie in the tree of "files", one before it that
/// makes it (elements/files/launch.cc).
[[nodiscard]] std::vector<std::string> launched(const std::vector<Selection>& selections, std::vector<std::string> args);

/// Whether one of that name is among them.
[[nodiscard]] bool contains(const std::vector<Selection>& selections, std::string_view name);

/// The stack of the element "network", as a process of the container: nobody's, without
/// capabilities. Its descriptors 0 and 1 are the tap device and the socket it is asked on.
[[nodiscard]] oci::Process stack_process();
/// What does for programs that cannot load the library of "network" what it does (elements/network/
/// interception): the container's root, with the right to trace its programs and to ask the
/// stack as their users, under a policy of its own. Its descriptor 0 is where listeners come.
[[nodiscard]] oci::Process interceptor_process();
[[nodiscard]] oci::Seccomp interceptor_policy();

/// For one more process of such a container (exec): LD_PRELOAD where the root has musl.
void add_environment(const std::vector<Selection>& selections, const sys::RootDir& root, std::vector<std::string>& env);

/// Whether the program is a static one that lies where libraries do (static-pie): what it calls is then told
/// from nothing else (runtime::LaunchOptions::intercept_libraries).
[[nodiscard]] bool lies_among_libraries(const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env);

/// "" where the program can have these elements; otherwise why it cannot. Follows scripts to their
/// interpreter.
[[nodiscard]] std::string why_not_linkable(const std::vector<Selection>& selections, const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env);

/// An element in a process, as its page tells (elements/include/caisson/element.h).
struct Link {
  std::string element;
  std::string linkage;   ///< full, control-only, inherited or none
  std::string instance;  ///< "" where it has not been used since a fork
  std::vector<std::pair<std::string, uint64_t>> counters;
};
/// Reads it out of a process of a container. Needs the right to trace it. `all`: the container's
/// processes, of which one may do for the others what they have not loaded; `libraries_too`: also for those
/// that lie where libraries do.
[[nodiscard]] Result<Link> inspect(pid_t pid, const std::string& element, const std::vector<pid_t>& all, bool libraries_too = false);

/// The handshake: returns when a program among `processes` has shown each element, or the first
/// one (`pidfd`) has ended: it could at least load them (why_not_linkable). An error after 5 s.
[[nodiscard]] Result<> await_linked(std::vector<Selection> wanted, int pidfd, const std::function<std::vector<pid_t>()>& processes, bool libraries_too = false);

// settings.cc: text that the libraries read; pure.
[[nodiscard]] Result<std::string> clock_settings(const std::string& options, const Moment& now, const oci::Spec& spec);
[[nodiscard]] Result<std::string> resources_settings(const std::string& options, const Moment& now, const oci::Spec& spec);

/// What "files" is asked for. Folder and key are never another's choice than the user's: images
/// and annotations may name neither.
struct FilesOptions {
  std::string package;  ///< on the host
  std::string at;       ///< in the container, absolute and clean
  bool copy_on_write = false;
  std::string folder;  ///< on the host, where changes stay; "": in memory
  std::string key;     ///< file on the host, or ""
  std::string size;    ///< of the memory; "": what the package can fill
};
[[nodiscard]] Result<FilesOptions> parse_files(const std::string& options);
/// A request ("files=site.package,at=/srv") that means the same from everywhere: files that it names
/// relative to `folder` are given their whole paths.
[[nodiscard]] std::string with_whole_paths(const std::string& text, const std::string& folder);
/// Folder of the packages that annotations may name.
inline constexpr const char* kPackages = "/var/lib/caisson/packages";

/// Checks the package and adds its mounts. Returns the settings.
[[nodiscard]] Result<std::string> add_files(const std::string& options, oci::Spec& spec);

[[nodiscard]] Result<std::string> network_settings(const std::string& options, const Place& place);
/// `address`: the container's; "" where it is not known yet.
[[nodiscard]] Result<std::string> sockets_settings(const std::string& options, const std::string& address);

}  // namespace caisson::elements
