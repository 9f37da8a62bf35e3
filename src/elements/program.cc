// Which programs can load an element.
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/strings.h"
#include "elements/elements.h"

namespace caisson::elements {
namespace {

/// By $PATH, as execvp(3).
std::string find_program(const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env) {
  if (program.find('/') != std::string::npos) return program;
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const auto& e : env)
    if (e.starts_with("PATH=")) path = e.substr(5);
  struct stat st;
  for (const auto& folder : split(path, ':', true))
    if (auto file = root.open_at(folder + "/" + program, O_PATH); file && ::fstat(file->get(), &st) == 0 && S_ISREG(st.st_mode)) return folder + "/" + program;
  return {};
}

bool has_interpreter(int fd, const Elf64_Ehdr& header) {
  for (int i = 0; i < header.e_phnum && i < 64; ++i) {
    Elf64_Phdr segment;
    if (::pread(fd, &segment, sizeof segment, static_cast<off_t>(header.e_phoff) + i * static_cast<off_t>(sizeof segment)) != static_cast<ssize_t>(sizeof segment)) return false;
    if (segment.p_type == PT_INTERP) return true;
  }
  return false;
}

/// What the loader, or the kernel, makes of a program.
struct Kind {
  enum class Linking : uint8_t { unknown,
                                 dynamic,
                                 fixed,            ///< static, at an address of its own
                                 among_libraries,  ///< static, where libraries lie (static-pie)
                                 foreign } linking = Linking::unknown;
  std::string path;  ///< of what is executed in the end
};

/// Follows scripts to their interpreter. That it is not there is for others to say.
Kind kind_of(const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env) {
  Kind out;
  out.path = find_program(root, program, env);
  constexpr int kMostScripts = 5;
  for (int depth = 0; depth < kMostScripts; ++depth) {
    auto file = root.open_at(out.path, O_RDONLY | O_NONBLOCK);
    if (!file) return out;
    char start[256] = {};
    ssize_t n = ::pread(file->get(), start, sizeof start - 1, 0);
    if (n > 2 && start[0] == '#' && start[1] == '!') {
      auto words = split(trim(std::string(start + 2).substr(0, std::string(start + 2).find('\n'))), ' ', true);
      if (words.empty()) return out;
      bool env_program = base_name(words[0]) == "env" && words.size() > 1;
      out.path = env_program ? find_program(root, words.back(), env) : words[0];
      continue;
    }
    Elf64_Ehdr header;
    if (n < static_cast<ssize_t>(sizeof header) || std::memcmp(start, ELFMAG, SELFMAG) != 0) return out;
    std::memcpy(&header, start, sizeof header);
    if (start[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
      out.linking = Kind::Linking::foreign;
    else if (has_interpreter(file->get(), header))
      out.linking = Kind::Linking::dynamic;
    else
      out.linking = header.e_type == ET_EXEC ? Kind::Linking::fixed : Kind::Linking::among_libraries;
    return out;
  }
  return out;
}

}  // namespace

bool lies_among_libraries(const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env) { return kind_of(root, program, env).linking == Kind::Linking::among_libraries; }

std::string why_not_linkable(const std::vector<Selection>& selections, const sys::RootDir& root, const std::string& program, const std::vector<std::string>& env) {
  Kind kind = kind_of(root, program, env);
  if (kind.linking == Kind::Linking::foreign) return kind.path + " is not a program for x86-64";
  if (kind.linking == Kind::Linking::unknown || kind.linking == Kind::Linking::dynamic) return {};
  // Its calls of the network are answered beside it.
  bool intercepted = std::all_of(selections.begin(), selections.end(), [](const Selection& s) { return s.name == "network"; });
  return intercepted ? "" : kind.path + " is a static program, which loads no library";
}

}  // namespace caisson::elements
