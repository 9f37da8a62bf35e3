/* What the BPF programs and the process that loaded them tell each other.
   Plain C, for both compilers. */
#pragma once

#include <linux/types.h>

#define CAISSON_PATH_LIMIT 4096
#define CAISSON_CALL_LIMIT 512 /* system call numbers below this are watched */

enum caisson_follow {
  CAISSON_FOLLOW_FROM_EXEC = 1, /* only forks and chdir, until it, or a child of it, executes something */
  CAISSON_FOLLOW_NOW = 2,
};

/* Which arguments of a system call say what; -1: none. */
struct caisson_call {
  __s8 watched, dir, path, flags;
  __u8 made; /* set by the programs: some process that is followed has made it */
};

#define CAISSON_CAPABILITY_LIMIT 64

struct caisson_counters {
  __u64 lost;        /* events that found no room */
  __u64 outstanding; /* calls in `entered`; who is killed inside one leaves it there, which costs time and nothing else */
};

enum caisson_event_kind {
  CAISSON_EVENT_CALL,   /* a system call, when it is entered; a path that cannot be read yet is said later */
  CAISSON_EVENT_RESULT, /* of the thread's last call, where that makes a folder known by number or enters one; only while results are heard */
  CAISSON_EVENT_FORK,
  CAISSON_EVENT_EXIT,
};

struct caisson_event {
  __u32 kind;
  __u32 process;                 /* as the initial pid namespace counts */
  __u32 thread;                  /* CALL, RESULT; FORK: the new process or thread */
  __u32 call;                    /* CALL, RESULT: system call number */
  __u32 before;                  /* CALL: whether it came before the first exec of FOLLOW_FROM_EXEC */
  __s64 dir;                     /* CALL: descriptor argument, or AT_FDCWD */
  __s64 result;                  /* RESULT */
  __u64 flags;                   /* CALL */
  char path[CAISSON_PATH_LIMIT]; /* CALL: only as long as it is; "" for calls without one */
};
