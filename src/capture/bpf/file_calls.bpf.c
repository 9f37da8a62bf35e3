/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reports the system calls that name files, of the processes that are
   followed and of their children. Needs no BTF of the kernel.

   A program at the end of calls costs every call of the machine as much again
   as the one at their begin. So all is said at the begin that can be. A path
   whose page is not in memory yet waits in `entered` for the next call of the
   thread; where on_exit is attached, it and the descriptors of folders are
   said at the end of the call. */
#include <linux/bpf.h>
#include <linux/fcntl.h>
#include <linux/ptrace.h>
#include <asm/unistd.h>

#include <bpf/bpf_helpers.h>

#include "capture/bpf/event.h"

struct pending {
  __u64 path, flags;
  __s64 dir;
  __u32 call, before, said;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 65536);
  __type(key, __u32);   /* process, or thread of one */
  __type(value, __u32); /* enum caisson_follow */
} followed SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, CAISSON_CALL_LIMIT);
  __type(key, __u32);
  __type(value, struct caisson_call);
} calls SEC(".maps");

/* Capabilities that the kernel asked for and found. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, CAISSON_CAPABILITY_LIMIT);
  __type(key, __u32);
  __type(value, __u8);
} capabilities SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, __u32); /* thread */
  __type(value, struct pending);
} entered SEC(".maps"); /* what is not said yet, or whose result matters */

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 16 << 20);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct caisson_event);
} scratch SEC(".maps");

/* What was reported already. A busy server opens the same files again and
   again; saying it once costs it a tenth of the time. */
struct reported {
  __u64 flags;
  __u32 process, call;
  char path[128];
};

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16384);
  __type(key, struct reported);
  __type(value, __u8);
} reported SEC(".maps");

struct caisson_counters counters = {0, 0};

/* Where the kernel's sched_process_fork record has its child's id; set
   before loading. */
const volatile __u32 fork_child_offset = 0;

static int send(struct caisson_event* event, __u64 size) {
  if (bpf_ringbuf_output(&events, event, size, 0) == 0) return 1;
  __sync_fetch_and_add(&counters.lost, 1);
  return 0;
}

/* Whether something that comes later starts from the result of a call. */
static int result_matters(const struct pending* call) {
  return call->call == __NR_chdir || call->call == __NR_fchdir || (call->flags & (O_DIRECTORY | O_PATH));
}

/* 0: the path cannot be read, perhaps not yet. */
static int send_call(__u32 process, __u32 thread, const struct pending* call) {
  __u32 zero = 0;
  __u8 yes = 1;
  struct reported key;
  __s64 length = 0;
  __builtin_memset(&key, 0, sizeof key);
  if (call->path) length = bpf_probe_read_user_str(key.path, sizeof key.path, (const void*)call->path);
  if (length < 0) return 0;
  if (length == 1) return 1; /* fstat(2) is newfstatat(2) of "" */
  /* Whether the path alone says what this call means. */
  int once = key.path[0] == '/' && length < (__s64)sizeof key.path && !result_matters(call);
  key.flags = call->flags;
  key.process = process;
  key.call = call->call;
  if (once && bpf_map_lookup_elem(&reported, &key)) return 1;
  struct caisson_event* event = bpf_map_lookup_elem(&scratch, &zero);
  if (!event) return 1;
  event->kind = CAISSON_EVENT_CALL;
  event->process = process;
  event->thread = thread;
  event->call = call->call;
  event->before = call->before;
  event->dir = call->dir;
  event->flags = call->flags;
  event->path[0] = 0;
  length = 1;
  if (call->path) length = bpf_probe_read_user_str(event->path, sizeof event->path, (const void*)call->path);
  if (length < 1 || length > CAISSON_PATH_LIMIT) return 0;
  if (send(event, __builtin_offsetof(struct caisson_event, path) + length) && once) bpf_map_update_elem(&reported, &key, &yes, BPF_ANY);
  return 1;
}

static void send_result(__u32 process, __u32 thread, __u32 call, __s64 result) {
  __u32 zero = 0;
  struct caisson_event* event = bpf_map_lookup_elem(&scratch, &zero);
  if (!event) return;
  event->kind = CAISSON_EVENT_RESULT;
  event->process = process;
  event->thread = thread;
  event->call = call;
  event->result = result;
  send(event, __builtin_offsetof(struct caisson_event, path));
}

/* Takes out what this thread has entered last, if that waits, and says it. */
static int take_entered(__u32 process, __u32 thread, struct pending* call) {
  if (counters.outstanding == 0) return 0;
  struct pending* entry = bpf_map_lookup_elem(&entered, &thread);
  if (!entry) return 0;
  *call = *entry;
  if (bpf_map_delete_elem(&entered, &thread) == 0) __sync_fetch_and_add(&counters.outstanding, -1);
  if (!call->said) send_call(process, thread, call);
  return 1;
}

/* The argument of a system call: rdi, rsi, rdx, r10, r8, r9. */
static __u64 argument(const struct pt_regs* regs, __s8 number) {
  switch (number) {
    case 0: return regs->rdi;
    case 1: return regs->rsi;
    case 2: return regs->rdx;
    case 3: return regs->r10;
    case 4: return regs->r8;
    default: return regs->r9;
  }
}

SEC("raw_tp/sys_enter")
int on_enter(struct bpf_raw_tracepoint_args* context) {
  __u64 id = bpf_get_current_pid_tgid();
  __u32 process = id >> 32, thread = id;
  __u32 number = context->args[1];
  struct pending pending;
  take_entered(process, thread, &pending);
  struct caisson_call* call = bpf_map_lookup_elem(&calls, &number);
  /* Most calls end here: known to be made, and naming no file. */
  if (!call || (!call->watched && call->made)) return 0;
  __u32* state = bpf_map_lookup_elem(&followed, &process);
  if (!state) return 0;
  if (*state == CAISSON_FOLLOW_NOW && !call->made) call->made = 1;
  if (!call->watched) return 0;
  int executes = number == __NR_execve || number == __NR_execveat;
  if (executes) *state = CAISSON_FOLLOW_NOW;
  __u32 before = *state == CAISSON_FOLLOW_FROM_EXEC;
  if (before && number != __NR_chdir && number != __NR_fchdir) return 0;
  struct pt_regs regs;
  if (bpf_probe_read_kernel(&regs, sizeof regs, (const void*)context->args[0]) != 0) return 0;
  if (regs.cs != 0x33) return 0; /* a 32-bit call: other numbers */
  pending = (struct pending){.call = number, .dir = AT_FDCWD, .before = before};
  if (call->path >= 0) pending.path = argument(&regs, call->path);
  if (call->dir >= 0) pending.dir = (__s32)argument(&regs, call->dir);
  if (call->flags >= 0) pending.flags = argument(&regs, call->flags);
  /* What called execve is gone when it returns. */
  if (executes) {
    send_call(process, thread, &pending);
    return 0;
  }
  pending.said = send_call(process, thread, &pending);
  if (pending.said && !result_matters(&pending)) return 0;
  if (bpf_map_update_elem(&entered, &thread, &pending, BPF_ANY) == 0) __sync_fetch_and_add(&counters.outstanding, 1);
  return 0;
}

SEC("raw_tp/sys_exit")
int on_exit(struct bpf_raw_tracepoint_args* context) {
  __u64 id = bpf_get_current_pid_tgid();
  struct pending call;
  if (take_entered(id >> 32, id, &call) && result_matters(&call)) send_result(id >> 32, id, call.call, (__s64)context->args[1]);
  return 0;
}

/* (cred, target_ns, capable_ns, cap, ret) */
SEC("raw_tp/cap_capable")
int on_capable(struct bpf_raw_tracepoint_args* context) {
  __u32 process = bpf_get_current_pid_tgid() >> 32, number = context->args[3];
  if ((int)context->args[4] != 0) return 0;
  __u32* state = bpf_map_lookup_elem(&followed, &process);
  if (!state || *state != CAISSON_FOLLOW_NOW) return 0;
  __u8* used = bpf_map_lookup_elem(&capabilities, &number);
  if (used && !*used) *used = 1;
  return 0;
}

SEC("tracepoint/sched/sched_process_fork")
int on_fork(void* context) {
  __u32 process = bpf_get_current_pid_tgid() >> 32, child = 0, zero = 0;
  __u32* state = bpf_map_lookup_elem(&followed, &process);
  if (!state) return 0;
  if (bpf_probe_read_kernel(&child, sizeof child, (const char*)context + fork_child_offset) != 0) return 0;
  __u32 inherited = *state;
  bpf_map_update_elem(&followed, &child, &inherited, BPF_ANY);
  struct caisson_event* event = bpf_map_lookup_elem(&scratch, &zero);
  if (!event) return 0;
  event->kind = CAISSON_EVENT_FORK;
  event->process = process;
  event->thread = child;
  send(event, __builtin_offsetof(struct caisson_event, path));
  return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int on_process_exit(void* context) {
  __u32 thread = bpf_get_current_pid_tgid(), zero = 0;
  if (bpf_map_delete_elem(&followed, &thread) != 0) return 0;
  struct caisson_event* event = bpf_map_lookup_elem(&scratch, &zero);
  if (!event) return 0;
  event->kind = CAISSON_EVENT_EXIT;
  event->process = thread;
  send(event, __builtin_offsetof(struct caisson_event, path));
  return 0;
}

char license_of_programs[] SEC("license") = "GPL";
