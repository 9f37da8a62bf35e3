#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/log.h"
#include "runtime/internal.h"
#include "sys/rlimits.h"

#include "runtime/embedded.h"

extern "C" const unsigned char caisson_exec_init_begin[], caisson_exec_init_end[], caisson_supervisor_begin[], caisson_supervisor_end[];

namespace caisson::runtime {
namespace {

class Builder {
 public:
  Builder() : data_(sizeof(init::Plan), '\0') {}

  uint64_t bytes(const void* source, size_t size) {
    data_.resize((data_.size() + 7) & ~size_t{7});
    uint64_t offset = data_.size();
    data_.append(static_cast<const char*>(source), size);
    return offset;
  }
  uint64_t text(const std::string& s) { return bytes(s.c_str(), s.size() + 1); }
  uint64_t table(const std::vector<std::string>& list) {
    std::vector<uint64_t> offsets;
    for (const auto& s : list) offsets.push_back(text(s));
    offsets.push_back(0);
    return bytes(offsets.data(), offsets.size() * sizeof(uint64_t));
  }
  std::string finish(init::Plan plan) {
    plan.magic = init::kMagic;
    plan.size = data_.size();
    std::memcpy(data_.data(), &plan, sizeof plan);
    return std::move(data_);
  }

 private:
  std::string data_;
};

uint64_t capability_mask(const std::vector<std::string>& names) {
  uint64_t mask = 0;
  for (const auto& name : names)
    if (int number = oci::capability_number(name); number >= 0) mask |= uint64_t{1} << number;
  return mask;
}

/// What cannot be granted is left out with a warning (config.md, "POSIX process").
void set_capabilities(init::Plan& p, const oci::Capabilities& wanted, const ChildPlan& plan) {
  // The root of a user namespace has all of them there.
  uint64_t grantable = plan.user_namespace ? ~uint64_t{0} : plan.own_capabilities;
  auto mask = [&](const std::vector<std::string>& names) { return capability_mask(names) & grantable; };
  p.flags |= init::kSetCapabilities;
  p.bounding = capability_mask(wanted.bounding);
  p.bounding_now = plan.user_namespace ? ~uint64_t{0} : plan.own_bounding_set;
  p.effective = mask(wanted.effective);
  p.inheritable = mask(wanted.inheritable);
  p.permitted = mask(wanted.permitted);
  p.ambient = mask(wanted.ambient);
  for (const auto& name : wanted.permitted)
    if (int number = oci::capability_number(name); number >= 0 && (grantable >> number & 1) == 0) log::warning("capability " + name + " cannot be granted: this process does not have it");
  // capabilities(7): ambient ones must be permitted and inheritable.
  for (const auto& name : wanted.ambient)
    if (int number = oci::capability_number(name); number >= 0 && ((p.permitted & p.inheritable) >> number & 1) == 0 && (p.ambient >> number & 1) != 0) {
      log::warning("can't raise ambient capability " + name + ": it is not permitted and inheritable");
      p.ambient &= ~(uint64_t{1} << number);
    }
}

}  // namespace

std::string build_init_plan(const ChildPlan& plan, const std::vector<std::string>& environment) {
  const oci::Process& process = *plan.process;
  Builder b;
  init::Plan p = {};
  if (process.no_new_privileges) p.flags |= init::kNoNewPrivs;
  if (plan.new_keyring) p.flags |= init::kNewKeyring;
  if (plan.spec != nullptr && !plan.spec->process) p.flags |= init::kNoProgram;
  if (process.capabilities) set_capabilities(p, *process.capabilities, plan);
  p.uid = process.user.uid;
  p.gid = process.user.gid;
  p.umask = process.user.umask.value_or(0xffffffff);
  p.sync_fd = plan.sync.get();
  p.fifo_fd = plan.fifo.valid() ? plan.fifo.get() : -1;
  p.group_count = static_cast<uint32_t>(process.user.additional_gids.size());
  p.groups = b.bytes(process.user.additional_gids.data(), p.group_count * sizeof(uint32_t));
  p.argv = b.table(process.args);
  p.envp = b.table(environment);
  p.cwd = b.text(process.cwd);
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const auto& e : environment)
    if (e.starts_with("PATH=")) path = e.substr(5);
  p.search_path = b.text(path);
  if (plan.seccomp) {
    p.seccomp_count = static_cast<uint32_t>(plan.seccomp->filter.size());
    p.seccomp = b.bytes(plan.seccomp->filter.data(), plan.seccomp->filter.size() * sizeof(sock_filter));
    p.seccomp_flags = plan.seccomp->flags;
    p.listener = plan.seccomp->notify ? 1 : 0;
  }
  if (!plan.interception.empty()) {
    auto filter = interception_filter(plan.intercept_libraries);
    p.interception_count = filter.size();
    p.interception = b.bytes(filter.data(), filter.size_bytes());
  }
  std::vector<init::Limit> limits;
  for (const auto& l : process.rlimits) limits.push_back({static_cast<uint32_t>(sys::rlimit_number(l.type)), 0, l.soft, l.hard});
  p.limit_count = static_cast<uint32_t>(limits.size());
  p.limits = b.bytes(limits.data(), limits.size() * sizeof(init::Limit));
  std::vector<init::HookEntry> hooks;
  for (const auto& h : plan.start_hooks)
    hooks.push_back({b.text(h.path), b.table(h.args.empty() ? std::vector<std::string>{h.path} : h.args), b.table(h.env.empty() ? environment : h.env), h.timeout.value_or(0)});
  p.hook_count = static_cast<uint32_t>(hooks.size());
  p.hooks = b.bytes(hooks.data(), hooks.size() * sizeof(init::HookEntry));
  p.state = b.text(plan.hook_state);
  p.ignored_signals = plan.ignored_signals;
  return b.finish(p);
}

Result<Fd> make_init(std::string_view plan) {
  std::string program(reinterpret_cast<const char*>(caisson_exec_init_begin), static_cast<size_t>(caisson_exec_init_end - caisson_exec_init_begin));
  // The segment that can be written is the plan's, and the last of the file: what follows
  // there are section headers, which nobody reads (elf(5)).
  auto* header = reinterpret_cast<Elf64_Ehdr*>(program.data());
  header->e_shoff = 0;
  header->e_shnum = header->e_shstrndx = 0;
  auto* segments = reinterpret_cast<Elf64_Phdr*>(program.data() + header->e_phoff);
  auto* last = std::find_if(segments, segments + header->e_phnum, [](const Elf64_Phdr& s) { return s.p_type == PT_LOAD && (s.p_flags & PF_W) != 0; });
  last->p_filesz = last->p_memsz = plan.size();
  program.resize(last->p_offset);
  program += plan;

  Fd fd(::memfd_create("init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return fail_errno("memfd for the init");
  TRY(write_all(fd.get(), program));
  ::fchmod(fd.get(), 0555);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) return fail_errno("seal the init");
  return fd;
}

Result<> write_supervisor(const std::string& path) {
  auto size = static_cast<size_t>(caisson_supervisor_end - caisson_supervisor_begin);
  return replace_file(path, std::string_view(reinterpret_cast<const char*>(caisson_supervisor_begin), size), 0555);
}

}  // namespace caisson::runtime
