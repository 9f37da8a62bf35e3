// Looking for an element in a process: the handshake, from the host's side.
#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/strings.h"
#include "caisson/element.h"
#include "elements/elements.h"
#include "elements/embedded.h"
#include "sys/address_space.h"

namespace caisson::elements {
namespace {

/// Offset of the exported `caisson_element` from where the library is loaded. The library is
/// ours, so that its headers are what they say.
uint64_t page_pointer(std::string_view library) {
  auto at = [&]<class T>(uint64_t offset, T& out) { std::memcpy(&out, library.data() + offset, sizeof out); };
  Elf64_Ehdr header;
  at(0, header);
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section, names;
    at(header.e_shoff + static_cast<uint64_t>(i) * sizeof section, section);
    if (section.sh_type != SHT_DYNSYM) continue;
    at(header.e_shoff + section.sh_link * sizeof names, names);
    for (uint64_t s = 0; s < section.sh_size / sizeof(Elf64_Sym); ++s) {
      Elf64_Sym symbol;
      at(section.sh_offset + s * sizeof symbol, symbol);
      if (std::strcmp(library.data() + names.sh_offset + symbol.st_name, "caisson_element") == 0) return symbol.st_value;
    }
  }
  return 0;
}

/// Where the process has loaded it; 0 where it has not.
uint64_t load_address(const std::string& maps, const std::string& element) {
  std::string end = std::string(CAISSON_ELEMENT_LIBRARIES) + "/libcaisson-" + element + ".so";
  for (const auto& line : split(maps, '\n', true)) {
    auto fields = split(line, ' ', true);
    if (fields.size() >= 6 && line.ends_with(end) && fields[2] == "00000000") return std::strtoull(fields[0].c_str(), nullptr, 16);
  }
  return 0;
}

std::string program_of(pid_t pid) {
  char path[PATH_MAX];
  ssize_t n = ::readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), path, sizeof path);
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : "";
}

/// The library as a program of its own: the stack of a container (elements/network/stack), or what
/// asks it for others (elements/network/interception).
bool is_network(pid_t pid) { return program_of(pid).ends_with("/libcaisson-network.so"); }
bool is_interceptor(pid_t pid) {
  return is_network(pid) && read_file("/proc/" + std::to_string(pid) + "/cmdline").value_or("").ends_with(std::string("\0calls\0", 7));
}

/// Whether the calls that a program makes itself can be told from those of libraries, by where it lies
/// (src/runtime/interception.cc).
bool lies_low(pid_t pid, const std::string& maps) {
  std::string program = program_of(pid);
  for (const auto& line : split(maps, '\n', true))
    if (!program.empty() && line.ends_with(" " + program)) return std::strtoull(line.c_str(), nullptr, 16) < sys::kLibrariesBegin;
  return false;
}

template <size_t kSize>
std::string text(const char (&field)[kSize]) {
  return {field, ::strnlen(field, kSize)};
}

}  // namespace

namespace {

/// What the process itself shows. `maps`: of /proc/PID/maps.
Result<Link> inspect_itself(pid_t pid, const std::string& element, const std::string& maps) {
  std::string folder = "/proc/" + std::to_string(pid);
  Link out{element, "none", "", {}};
  uint64_t base = load_address(maps, element);
  if (base == 0) return out;
  Fd memory = TRY(open_file(folder + "/mem", O_RDONLY));
  auto read = [&](uint64_t address, void* to, size_t size) { return ::pread(memory.get(), to, size, static_cast<off_t>(address)) == static_cast<ssize_t>(size); };
  uint64_t pointer = 0;
  struct caisson_element_page page;
  // It is loaded, and its constructor has not run yet, or the process was just forked.
  if (!read(base + page_pointer(library(element)), &pointer, sizeof pointer) || pointer == 0 || !read(pointer, &page, sizeof page)) return out;
  if (page.magic != CAISSON_ELEMENT_MAGIC) {
    // Wiped by a fork: it is what its parent's was, and makes its own when it is used.
    out.linkage = "inherited";
    return out;
  }
  // The page is the process's own: it may say anything, but not be taken for more than text.
  if (page.abi != CAISSON_ELEMENT_ABI || text(page.name) != element) return out;
  out.linkage = page.linkage == CAISSON_FULL ? "full" : page.linkage == CAISSON_CONTROL_ONLY ? "control-only"
                                                                                             : "none";
  char id[40];
  std::snprintf(id, sizeof id, "%016llx%016llx", static_cast<unsigned long long>(page.instance[0]), static_cast<unsigned long long>(page.instance[1]));
  out.instance = id;
  for (int i = 0; i < CAISSON_ELEMENT_COUNTERS; ++i) {
    std::string name = text(page.counter_names[i]);
    bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c == ' ' || (c >= 'a' && c <= 'z'); });
    if (plain) out.counters.emplace_back(std::move(name), page.counters[i]);
  }
  return out;
}

}  // namespace

Result<Link> inspect(pid_t pid, const std::string& element, const std::vector<pid_t>& all, bool libraries_too) {
  constexpr uint64_t kLargestMaps = 64u << 20;
  std::string maps = TRY(read_file("/proc/" + std::to_string(pid) + "/maps", kLargestMaps));
  Link out = TRY(inspect_itself(pid, element, maps));
  if (element != "network" || out.linkage != "none" || (!libraries_too && !lies_low(pid, maps))) return out;
  auto interceptor = std::find_if(all.begin(), all.end(), is_interceptor);
  if (interceptor == all.end()) return out;
  // It has no instance of its own: it is served by that one's.
  auto served = inspect_itself(*interceptor, element, TRY(read_file("/proc/" + std::to_string(*interceptor) + "/maps", kLargestMaps)));
  return served ? *served : out;
}

Result<> await_linked(std::vector<Selection> wanted, int pidfd, const std::function<std::vector<pid_t>()>& processes, bool libraries_too) {
  constexpr int64_t kPatience = 5000;
  for (int64_t end = monotonic_ms() + kPatience; monotonic_ms() < end; ::usleep(2000)) {
    struct pollfd ended = {pidfd, POLLIN, 0};
    if (::poll(&ended, 1, 0) == 1) return {};
    auto pids = processes();
    std::erase_if(wanted, [&](const Selection& s) {
      return std::any_of(pids.begin(), pids.end(), [&](pid_t pid) {
        auto link = inspect(pid, s.name, pids, libraries_too);
        return link && !is_network(pid) && (link->linkage == "full" || link->linkage == "control-only");
      });
    });
    if (wanted.empty()) return {};
  }
  return fail("the element " + wanted[0].name + " was not linked, and is required: no program of the container has loaded it");
}

}  // namespace caisson::elements
