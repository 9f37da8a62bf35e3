#include "capture/elf.h"

#include <elf.h>
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

bool read_exact(int fd, void* buffer, size_t size, uint64_t offset) { return ::pread(fd, buffer, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size); }

void read_elf(int fd, const std::string& path, ProgramNeeds& out) {
  Elf64_Ehdr header;
  if (!read_exact(fd, &header, sizeof header, 0) || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > 256) return;
  out.is_elf = true;
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!read_exact(fd, segments.data(), segments.size() * sizeof(Elf64_Phdr), header.e_phoff)) return;
  auto file_offset = [&](uint64_t address) -> uint64_t {
    for (const auto& s : segments)
      if (s.p_type == PT_LOAD && address >= s.p_vaddr && address < s.p_vaddr + s.p_filesz) return address - s.p_vaddr + s.p_offset;
    return 0;
  };
  std::vector<Elf64_Dyn> dynamic;
  for (const auto& s : segments) {
    if (s.p_type == PT_INTERP && s.p_filesz > 1 && s.p_filesz < 4096) {
      out.interpreter.resize(s.p_filesz);
      if (!read_exact(fd, out.interpreter.data(), s.p_filesz, s.p_offset)) out.interpreter.clear();
      out.interpreter = out.interpreter.c_str();
    }
    if (s.p_type == PT_DYNAMIC && s.p_filesz < (1u << 20)) {
      dynamic.resize(s.p_filesz / sizeof(Elf64_Dyn));
      if (!read_exact(fd, dynamic.data(), dynamic.size() * sizeof(Elf64_Dyn), s.p_offset)) dynamic.clear();
    }
  }
  uint64_t table = 0, table_size = 0;
  for (const auto& d : dynamic) {
    if (d.d_tag == DT_STRTAB) table = file_offset(d.d_un.d_ptr);
    if (d.d_tag == DT_STRSZ) table_size = d.d_un.d_val;
  }
  if (table == 0 || table_size == 0 || table_size > (64u << 20)) return;
  std::string strings(table_size, '\0');
  if (!read_exact(fd, strings.data(), table_size, table)) return;
  auto text = [&](uint64_t offset) { return offset < strings.size() ? std::string(strings.c_str() + offset) : std::string(); };
  for (const auto& d : dynamic) {
    if (d.d_tag == DT_NULL) break;
    if (d.d_tag == DT_NEEDED) out.libraries.push_back(text(d.d_un.d_val));
    if (d.d_tag == DT_RUNPATH || d.d_tag == DT_RPATH)
      for (auto folder : split(text(d.d_un.d_val), ':', true)) {
        for (const char* name : {"$ORIGIN", "${ORIGIN}"})
          if (size_t at = folder.find(name); at != std::string::npos) folder.replace(at, std::strlen(name), dir_name(path));
        if (folder.starts_with("/")) out.search.push_back(clean_path(folder));
      }
  }
}

}  // namespace

ProgramNeeds program_needs(const std::string& path) {
  ProgramNeeds out;
  auto fd = open_file(path, O_RDONLY | O_NONBLOCK);
  char start[256] = {};
  ssize_t n = fd ? ::pread(fd->get(), start, sizeof start - 1, 0) : -1;
  if (n < 4) return out;
  if (std::memcmp(start, ELFMAG, SELFMAG) == 0) {
    read_elf(fd->get(), path, out);
  } else if (start[0] == '#' && start[1] == '!') {
    std::string line(start + 2, static_cast<size_t>(n - 2));
    line = line.substr(0, line.find('\n'));
    auto words = split(trim(line), ' ', true);
    if (words.empty() || words[0][0] != '/') return out;
    out.is_script = true;
    out.interpreter = words[0];
    if (words.size() > 1) out.interpreter_argument = words[1] == "-S" && words.size() > 2 ? words[2] : words[1];
  }
  return out;
}

LibrarySearch::LibrarySearch() {
  read_conf("/etc/ld.so.conf", 0);
  for (const char* folder : {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}) folders_.push_back(folder);
}

void LibrarySearch::read_conf(const std::string& path, int depth) {
  auto text = read_file(path, 1u << 20);
  if (!text || depth > 4) return;
  for (const auto& raw : split(*text, '\n', true)) {
    std::string line(trim(raw.substr(0, raw.find('#'))));
    if (line.starts_with("include ")) {
      std::string pattern = std::string(trim(line.substr(8)));
      glob_t matches = {};
      if (::glob(pattern.c_str(), 0, nullptr, &matches) == 0)
        for (size_t i = 0; i < matches.gl_pathc; ++i) read_conf(matches.gl_pathv[i], depth + 1);
      ::globfree(&matches);
    } else if (line.starts_with("/")) {
      folders_.push_back(clean_path(line));
    }
  }
}

std::string LibrarySearch::find(const std::string& name, const std::vector<std::string>& first) const {
  if (name.starts_with("/")) return ::access(name.c_str(), F_OK) == 0 ? name : "";
  for (const auto* list : {&first, &folders_})
    for (const auto& folder : *list) {
      std::string path = folder + "/" + name;
      if (::access(path.c_str(), F_OK) == 0) return path;
    }
  return {};
}

}  // namespace caisson::capture
