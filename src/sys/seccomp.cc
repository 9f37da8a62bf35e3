#include "sys/seccomp.h"

#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>

#include "base/fd.h"
#include "base/log.h"

namespace caisson::sys {
namespace {

Result<uint32_t> parse_action(const std::string& name, std::optional<uint32_t> errno_ret) {
  uint32_t code = errno_ret.value_or(EPERM) & 0xffff;
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(code);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL_THREAD;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(code);
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  if (name == "SCMP_ACT_NOTIFY") return SCMP_ACT_NOTIFY;
  return fail("seccomp: unknown action \"" + name + "\"", EINVAL);
}

Result<scmp_compare> parse_operator(const std::string& name) {
  static const std::map<std::string_view, scmp_compare> known{
      {"SCMP_CMP_NE", SCMP_CMP_NE}, {"SCMP_CMP_LT", SCMP_CMP_LT}, {"SCMP_CMP_LE", SCMP_CMP_LE}, {"SCMP_CMP_EQ", SCMP_CMP_EQ}, {"SCMP_CMP_GE", SCMP_CMP_GE}, {"SCMP_CMP_GT", SCMP_CMP_GT}, {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};
  auto it = known.find(name);
  if (it == known.end()) return fail("seccomp: unknown operator \"" + name + "\"", EINVAL);
  return it->second;
}

Result<uint32_t> parse_architecture(const std::string& name) {
  static const std::map<std::string_view, uint32_t> known{
      {"SCMP_ARCH_X86", SCMP_ARCH_X86}, {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64}, {"SCMP_ARCH_X32", SCMP_ARCH_X32}, {"SCMP_ARCH_ARM", SCMP_ARCH_ARM}, {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64}, {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS}, {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64}, {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32}, {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL}, {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64}, {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32}, {"SCMP_ARCH_PPC", SCMP_ARCH_PPC}, {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64}, {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE}, {"SCMP_ARCH_S390", SCMP_ARCH_S390}, {"SCMP_ARCH_S390X", SCMP_ARCH_S390X}, {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64}, {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC}, {"SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64}};
  auto it = known.find(name);
  if (it == known.end()) return fail("seccomp: unknown architecture \"" + name + "\"", EINVAL);
  return it->second;
}

/// A policy speaks of the system calls that its author knew. Newer ones get
/// ENOSYS, so that a program falls back to what it did before they existed; the
/// EPERM of the default would end it (runc does the same).
std::vector<sock_filter> unknown_calls_are_missing(const oci::Seccomp& policy, const std::vector<uint32_t>& architectures) {
  constexpr uint32_t kX32Bit = 0x40000000;
  struct Newest {
    uint32_t architecture, number;
  };
  std::vector<Newest> newest;
  for (uint32_t architecture : architectures) {
    if (architecture == SCMP_ARCH_X32) continue;  // the same AUDIT_ARCH as x86_64, told apart below
    int highest = -1;
    for (const auto& rule : policy.syscalls)
      for (const auto& name : rule.names) highest = std::max(highest, seccomp_syscall_resolve_name_arch(architecture, name.c_str()));
    if (highest >= 0) newest.push_back({architecture, static_cast<uint32_t>(highest)});
  }
  std::vector<sock_filter> out;
  if (newest.empty()) return out;
  size_t end = 1 + 5 * newest.size();
  auto to_end = [&] { return static_cast<uint8_t>(end - out.size() - 1); };
  out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
  for (const auto& n : newest) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n.architecture, 0, 4));
    out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, to_end(), 0));
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, n.number, 0, to_end()));
    out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
  }
  return out;
}

Error seccomp_error(std::string_view what, int rc) { return fail_errno("seccomp: " + std::string(what), -rc).error(); }

}  // namespace

Result<SeccompProgram> compile_seccomp(const oci::Seccomp& policy) {
  uint32_t default_action = TRY(parse_action(policy.default_action, policy.default_errno_ret));
  if (policy.default_action == "SCMP_ACT_NOTIFY") return fail("SCMP_ACT_NOTIFY cannot be used as default action", EINVAL);
  std::unique_ptr<void, decltype(&seccomp_release)> context(seccomp_init(default_action), seccomp_release);
  if (context == nullptr) return fail("seccomp: cannot start a filter for " + policy.default_action);
  scmp_filter_ctx ctx = context.get();
  seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0);

  std::vector<uint32_t> architectures{seccomp_arch_native()};
  for (const auto& name : policy.architectures) {
    uint32_t arch = TRY(parse_architecture(name));
    if (arch != architectures[0]) architectures.push_back(arch);
    if (int rc = seccomp_arch_add(ctx, arch); rc < 0 && rc != -EEXIST) return std::unexpected(seccomp_error("add architecture " + name, rc));
  }
  SeccompProgram program;
  static const std::map<std::string_view, unsigned> kFlags{
      {"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
      {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
      {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
      {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1u << 5}};
  for (const auto& flag : policy.flags) {
    auto it = kFlags.find(flag);
    if (it == kFlags.end()) return fail("seccomp: unknown flag \"" + flag + "\"", EINVAL);
    program.flags |= it->second;
  }

  for (const auto& rule : policy.syscalls) {
    uint32_t action = TRY(parse_action(rule.action, rule.errno_ret));
    if (rule.action == "SCMP_ACT_NOTIFY") {
      program.notify = true;
      // The init says with write(2) that it is ready, and nobody would answer.
      if (std::find(rule.names.begin(), rule.names.end(), "write") != rule.names.end()) return fail("SCMP_ACT_NOTIFY cannot be used for the write syscall", EINVAL);
    }
    if (action == default_action) continue;
    std::vector<scmp_arg_cmp> comparisons;
    bool repeats = false;
    for (const auto& a : rule.args) {
      scmp_arg_cmp cmp = {};
      cmp.arg = a.index;
      cmp.op = TRY(parse_operator(a.op));
      cmp.datum_a = a.value;
      cmp.datum_b = a.value_two;
      for (const auto& other : comparisons) repeats |= other.arg == cmp.arg;
      comparisons.push_back(cmp);
    }
    for (const auto& name : rule.names) {
      int number = seccomp_syscall_resolve_name(name.c_str());
      if (number == __NR_SCMP_ERROR) {
        log::debug("seccomp: system call \"" + name + "\" is not known here, skipped");
        continue;
      }
      // Several conditions on one argument are alternatives, as in runc.
      if (repeats) {
        for (const auto& cmp : comparisons)
          if (int rc = seccomp_rule_add_array(ctx, action, number, 1, &cmp); rc < 0) return std::unexpected(seccomp_error("rule for " + name, rc));
      } else if (int rc = seccomp_rule_add_array(ctx, action, number, static_cast<unsigned>(comparisons.size()), comparisons.data()); rc < 0) {
        return std::unexpected(seccomp_error("rule for " + name, rc));
      }
    }
  }

  Fd memory(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!memory.valid()) return fail_errno("seccomp: memfd");
  if (int rc = seccomp_export_bpf(ctx, memory.get()); rc < 0) return std::unexpected(seccomp_error("compile", rc));
  if (::lseek(memory.get(), 0, SEEK_SET) < 0) return fail_errno("seccomp: memfd");
  std::string raw = TRY(read_fd(memory.get(), "seccomp program"));
  bool denies = policy.default_action != "SCMP_ACT_ALLOW" && policy.default_action != "SCMP_ACT_LOG" && policy.default_action != "SCMP_ACT_TRACE";
  if (denies && default_action != SCMP_ACT_ERRNO(ENOSYS)) program.filter = unknown_calls_are_missing(policy, architectures);
  size_t before = program.filter.size();
  program.filter.resize(before + raw.size() / sizeof(sock_filter));
  raw.copy(reinterpret_cast<char*>(program.filter.data() + before), raw.size());
  return program;
}

int system_call_number(const std::string& name) { return seccomp_syscall_resolve_name(name.c_str()); }

}  // namespace caisson::sys
