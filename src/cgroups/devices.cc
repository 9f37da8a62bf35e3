// Device rules of cgroup v2: a BPF program built here and attached to the
// cgroup, as the kernel has no files for them.
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "cgroups/cgroup.h"

namespace caisson::cgroups {
namespace {

bpf_insn insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn i = {};
  i.code = code;
  i.dst_reg = dst & 0xf;
  i.src_reg = src & 0xf;
  i.off = off;
  i.imm = imm;
  return i;
}
bpf_insn load(uint8_t dst, int16_t offset) { return insn(BPF_LDX | BPF_MEM | BPF_W, dst, BPF_REG_1, offset, 0); }
bpf_insn jump_ne(uint8_t dst, int32_t imm, int16_t off) { return insn(BPF_JMP | BPF_JNE | BPF_K, dst, 0, off, imm); }

std::vector<bpf_insn> build(const std::vector<oci::DeviceRule>& rules) {
  // r2: type, r3: access asked for, r4: major, r5: minor (bpf_cgroup_dev_ctx).
  std::vector<bpf_insn> code{load(BPF_REG_2, 0),
                             insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff),
                             load(BPF_REG_3, 0),
                             insn(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16),
                             load(BPF_REG_4, 4),
                             load(BPF_REG_5, 8)};
  bool default_allow = false;
  // Later rules win, so they are tested first; a rule for "a" decides the rest.
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    if (rule->type == "a") {
      default_allow = rule->allow;
      break;
    }
    std::vector<bpf_insn> block;
    std::vector<size_t> exits;
    auto unless = [&](bpf_insn jump) {
      exits.push_back(block.size());
      block.push_back(jump);
    };
    unless(jump_ne(BPF_REG_2, rule->type == "b" ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR, 0));
    int32_t access = 0;
    if (rule->access.find('r') != std::string::npos) access |= BPF_DEVCG_ACC_READ;
    if (rule->access.find('w') != std::string::npos) access |= BPF_DEVCG_ACC_WRITE;
    if (rule->access.find('m') != std::string::npos) access |= BPF_DEVCG_ACC_MKNOD;
    if (access != 0 && access != 7) {
      block.push_back(insn(BPF_ALU | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0));
      block.push_back(insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, access));
      // Allow only what the rule covers whole; deny what it covers in part.
      if (rule->allow)
        unless(insn(BPF_JMP | BPF_JNE | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0));
      else
        unless(insn(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_1, 0, 0, 0));
    }
    if (rule->major) unless(jump_ne(BPF_REG_4, static_cast<int32_t>(*rule->major), 0));
    if (rule->minor) unless(jump_ne(BPF_REG_5, static_cast<int32_t>(*rule->minor), 0));
    block.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, rule->allow ? 1 : 0));
    block.push_back(insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    for (size_t at : exits) block[at].off = static_cast<int16_t>(block.size() - at - 1);
    code.insert(code.end(), block.begin(), block.end());
  }
  code.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, default_allow ? 1 : 0));
  code.push_back(insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return code;
}

}  // namespace

Result<> attach_device_program(int cgroup_fd, const std::vector<oci::DeviceRule>& rules) {
  std::vector<bpf_insn> code = build(rules);
  union bpf_attr attr;
  std::memset(&attr, 0, sizeof attr);
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = reinterpret_cast<uint64_t>(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = reinterpret_cast<uint64_t>("Apache-2.0");
  Fd program(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
  if (!program.valid()) return fail_errno("load the device program");
  std::memset(&attr, 0, sizeof attr);
  attr.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attr.attach_type = BPF_CGROUP_DEVICE;
  attr.attach_flags = BPF_F_ALLOW_MULTI;
  if (::syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) < 0) return fail_errno("attach the device program");
  return {};
}

}  // namespace caisson::cgroups
