#include "capture/bpf_watcher.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "capture/bpf/event.h"
#include "capture/file_systems.h"
#include "capture/stopped_call.h"
#include "sys/in_root.h"
#include "sys/mount.h"

extern "C" const char caisson_file_calls_begin[], caisson_file_calls_end[];

namespace caisson::capture {
namespace {

struct CloseObject {
  void operator()(bpf_object* o) const { bpf_object__close(o); }
  void operator()(bpf_link* l) const { bpf_link__destroy(l); }
  void operator()(ring_buffer* r) const { ring_buffer__free(r); }
};
template <class T>
using Bpf = std::unique_ptr<T, CloseObject>;

/// A trace point of the kernel: its number, and where its fields lie
/// (tracefs, Documentation/trace/events.rst).
class TracePoint {
 public:
  static Result<TracePoint> find(int tracefs, const std::string& name) {
    auto read = [&](const char* file) -> Result<std::string> {
      Fd fd = TRY(open_at(tracefs, "events/" + name + "/" + file, O_RDONLY), "trace point " + name);
      return read_fd(fd.get(), name);
    };
    std::string id = TRY(read("id"));
    return TracePoint(TRY(parse_uint(trim(id), UINT32_MAX), name), TRY(read("format")));
  }

  [[nodiscard]] Result<uint32_t> offset_of(std::string_view field) const {
    // "	field:pid_t child_pid;	offset:20;	size:4;	signed:1;"
    for (const auto& line : split(format_, '\n', true)) {
      size_t at = line.find(" " + std::string(field) + ";"), offset = line.find("offset:");
      if (at == std::string::npos || offset == std::string::npos) continue;
      std::string_view digits = std::string_view(line).substr(offset + 7);
      return static_cast<uint32_t>(TRY(parse_uint(digits.substr(0, digits.find(';')), 4096), field));
    }
    return fail("the trace point has no field " + std::string(field));
  }

  [[nodiscard]] Result<Bpf<bpf_link>> attach(bpf_program* program) const {
    struct perf_event_attr attr = {};
    attr.size = sizeof attr;
    attr.type = PERF_TYPE_TRACEPOINT;
    attr.config = id_;
    // The program runs on every CPU, whichever is named here.
    int event = static_cast<int>(::syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
    if (event < 0) return fail_errno("perf_event_open");
    Bpf<bpf_link> link(bpf_program__attach_perf_event(program, event));
    if (!link) {
      int code = errno;
      ::close(event);
      return fail_errno("attach to a trace point", code);
    }
    return link;
  }

 private:
  TracePoint(uint64_t id, std::string format) : id_(id), format_(std::move(format)) {}
  uint64_t id_;
  std::string format_;
};

/// A folder that a call of unknown result opens or enters.
struct Asked {
  std::string folder;
  bool enters = false;
};

/// What relative paths of a process start from, and whose doing they are.
struct Process {
  Trace* into;
  std::string cwd;
  std::map<int, std::string> opened;  ///< folders by descriptor
  /// By thread: the folder that its last call opens or enters, until the result is heard.
  std::map<uint32_t, Asked> asked;
  bool skipped = false;        ///< see skip_program
  bool started = false;        ///< while it was watched
  bool below_started = false;  ///< by one of these
};

}  // namespace

struct BpfWatcher::State {
  BpfWatcher* owner = nullptr;
  Bpf<bpf_object> object;
  Bpf<ring_buffer> ring;
  std::vector<Bpf<bpf_link>> links;
  Fd executions, epoll;
  std::map<uint32_t, Process> processes;
  std::string skipped_program;
  bool hears_of_capabilities = false, hears_results = false;

  [[nodiscard]] int map(const char* name) const { return bpf_object__find_map_fd_by_name(object.get(), name); }

  Result<> load(uint32_t fork_child_offset) {
    object.reset(bpf_object__open_mem(caisson_file_calls_begin, static_cast<size_t>(caisson_file_calls_end - caisson_file_calls_begin), nullptr));
    if (!object) return fail_errno("read the BPF programs");
    // The one constant of the programs.
    bpf_map* constants = bpf_object__find_map_by_name(object.get(), ".rodata");
    if (constants == nullptr || bpf_map__set_initial_value(constants, &fork_child_offset, sizeof fork_child_offset) != 0) return fail("the BPF programs are not those of this build");
    if (bpf_object__load(object.get()) != 0) return fail_errno("load the BPF programs");
    for (const auto& call : file_calls()) {
      auto number = static_cast<uint32_t>(call.number);
      TRY(watch(number, {1, static_cast<int8_t>(call.dir), static_cast<int8_t>(call.path), static_cast<int8_t>(call.flags), 0}));
    }
    return watch(SYS_fchdir, {1, 0, -1, -1, 0});
  }

  Result<> watch(uint32_t number, const caisson_call& call) const {
    if (bpf_map_update_elem(map("calls"), &number, &call, BPF_ANY) != 0) return fail_errno("fill the table of system calls");
    return {};
  }

  bool attach(const char* program) {
    Bpf<bpf_link> link(bpf_program__attach(bpf_object__find_program_by_name(object.get(), program)));
    if (!link) return false;
    links.push_back(std::move(link));
    return true;
  }

  /// Results are heard only from where they matter on: that doubles what the watched machine
  /// pays for each of its calls, and a server that runs seldom opens folders.
  Result<> hear_results() {
    if (!hears_results && !attach("on_exit")) return fail_errno("attach to the end of system calls");
    hears_results = true;
    return {};
  }

  Result<> attach(const TracePoint& fork, const TracePoint& exit) {
    if (!attach("on_enter")) return fail_errno("attach to system calls");
    hears_of_capabilities = attach("on_capable");  // not in every kernel
    links.push_back(TRY(fork.attach(bpf_object__find_program_by_name(object.get(), "on_fork"))));
    links.push_back(TRY(exit.attach(bpf_object__find_program_by_name(object.get(), "on_process_exit"))));
    ring.reset(ring_buffer__new(
        map("events"), [](void* self, void* data, size_t size) {
          static_cast<State*>(self)->on_event(*static_cast<const caisson_event*>(data), size);
          return 0;
        },
        this, nullptr));
    if (!ring) return fail_errno("map the BPF ring buffer");
    epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
    return poll_too(ring_buffer__epoll_fd(ring.get()));
  }

  Result<> poll_too(int fd) const {
    struct epoll_event event = {};
    event.events = EPOLLIN;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll_ctl");
    return {};
  }

  Result<> follow(pid_t pid, caisson_follow how) {
    auto key = static_cast<uint32_t>(pid);
    uint32_t value = how;
    // Known first: its first event may come at once.
    Process& p = processes[key];
    p.into = how == CAISSON_FOLLOW_NOW ? &owner->running : &owner->trace;
    p.cwd = folder_of(pid, AT_FDCWD);
    if (auto fds = list_dir("/proc/" + std::to_string(pid) + "/fd"); fds)
      for (const auto& fd : *fds)
        if (std::string at = folder_of(pid, std::atoi(fd.c_str())); at.starts_with('/')) p.opened[std::atoi(fd.c_str())] = at;
    if (bpf_map_update_elem(map("followed"), &key, &value, BPF_ANY) != 0) return fail_errno("follow process " + std::to_string(pid));
    return {};
  }

  void on_event(const caisson_event& e, size_t size) {
    switch (e.kind) {
      case CAISSON_EVENT_FORK:
        if (auto parent = processes.find(e.process); parent != processes.end()) {
          Process child = parent->second;
          child.started = true;
          child.below_started = parent->second.started;
          processes.insert_or_assign(e.thread, std::move(child));
        }
        break;
      case CAISSON_EVENT_EXIT: processes.erase(e.process); break;
      case CAISSON_EVENT_CALL:
        if (auto it = processes.find(e.process); it != processes.end()) on_call(e, it->second, std::string(e.path, strnlen(e.path, size - offsetof(caisson_event, path))));
        break;
      case CAISSON_EVENT_RESULT:
        if (auto it = processes.find(e.process); it != processes.end()) on_result(e, it->second);
        break;
      default: break;
    }
  }

  void on_call(const caisson_event& e, Process& p, const std::string& path) {
    // Only what is no thread of another has calls here.
    if (p.below_started) p.into->grandchildren = true;
    // The result of what this thread entered was not heard: now it is there.
    if (auto it = p.asked.find(e.thread); it != p.asked.end() && it->second.enters) {
      std::string now = folder_of(static_cast<pid_t>(e.process), AT_FDCWD);
      p.cwd = now.starts_with('/') ? now : it->second.folder;
      p.asked.erase(it);
    }
    if (e.call == SYS_fchdir) return ask(e, p, opened_as(e, p), true);
    const FileCall* call = find_file_call(static_cast<int>(e.call));
    if (call == nullptr || path.empty()) return;
    std::string folder;
    if (path[0] != '/') folder = e.dir == AT_FDCWD ? p.cwd : opened_as(e, p);
    bool executes = e.call == SYS_execve || e.call == SYS_execveat;
    if (executes) p.skipped = !skipped_program.empty() && path == skipped_program;
    if (!e.before && !p.skipped) p.into->add(folder, path, call->use_with(e.flags));
    if (e.call == SYS_chdir || (e.flags & (O_DIRECTORY | O_PATH))) ask(e, p, path[0] == '/' ? path : folder + "/" + path, e.call == SYS_chdir);
  }

  void ask(const caisson_event& e, Process& p, std::string folder, bool enters) {
    if (auto heard = hear_results(); !heard) log::debug(heard.error().message);
    p.asked[e.thread] = {std::move(folder), enters};
  }

  static void on_result(const caisson_event& e, Process& p) {
    auto it = p.asked.find(e.thread);
    if (it == p.asked.end()) return;
    if (e.result >= 0) (it->second.enters ? p.cwd : p.opened[static_cast<int>(e.result)]) = std::move(it->second.folder);
    p.asked.erase(it);
  }

  static std::string opened_as(const caisson_event& e, const Process& p) {
    auto fd = static_cast<int>(e.dir);
    if (auto it = p.opened.find(fd); it != p.opened.end()) return it->second;
    // Received or duplicated, or opened before results were heard: what it leads to now.
    if (std::string now = folder_of(static_cast<pid_t>(e.process), fd); now.starts_with('/')) return now;
    auto last = p.asked.find(e.thread);
    return last == p.asked.end() ? "" : last->second.folder;
  }

  void on_executions() {
    alignas(fanotify_event_metadata) char buffer[8192];
    ssize_t size;
    while ((size = ::read(executions.get(), buffer, sizeof buffer)) > 0)
      for (auto* e = reinterpret_cast<fanotify_event_metadata*>(buffer); FAN_EVENT_OK(e, size); e = FAN_EVENT_NEXT(e, size)) {
        Fd file(e->fd);
        auto process = processes.find(static_cast<uint32_t>(e->pid));
        if (!file.valid() || process == processes.end() || process->second.skipped) continue;
        char path[4096];
        ssize_t n = ::readlink(sys::fd_path(file.get()).c_str(), path, sizeof path);
        if (n > 0) process->second.into->add("", std::string(path, static_cast<size_t>(n)), kExecuted);
      }
  }
};

BpfWatcher::BpfWatcher(std::unique_ptr<State> state) : state_(std::move(state)) { state_->owner = this; }
BpfWatcher::~BpfWatcher() = default;

Result<std::unique_ptr<BpfWatcher>> BpfWatcher::open() {
  // The programs see process ids as the initial namespace counts them.
  char space[64] = {};
  if (::readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0 || std::string_view(space) != "pid:[4026531836]") return fail("BPF can be used only from the initial pid namespace", EPERM);
  libbpf_set_print([](libbpf_print_level level, const char* format, va_list args) {
    char line[1024];
    int n = std::vsnprintf(line, sizeof line, format, args);
    if (level != LIBBPF_DEBUG) log::debug(std::string(trim(std::string_view(line, std::min<size_t>(static_cast<size_t>(std::max(n, 0)), sizeof line - 1)))));
    return n;
  });
  Fd tracefs = TRY(sys::make_detached("tracefs", "tracefs", {}, 0), "tracefs");
  auto fork = TRY(TracePoint::find(tracefs.get(), "sched/sched_process_fork"));
  auto exit = TRY(TracePoint::find(tracefs.get(), "sched/sched_process_exit"));
  auto state = std::make_unique<State>();
  TRY(state->load(TRY(fork.offset_of("child_pid"))));
  TRY(state->attach(fork, exit));
  state->executions.reset(::fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDONLY | O_CLOEXEC));
  if (state->executions.valid())
    TRY(state->poll_too(state->executions.get()));
  else
    log::debug(fail_errno("fanotify_init").error().message);
  std::unique_ptr<BpfWatcher> watcher(new BpfWatcher(std::move(state)));
  watcher->hear_executions();
  return watcher;
}

Result<> BpfWatcher::follow(pid_t child) {
  TRY(state_->hear_results());
  return state_->follow(child, CAISSON_FOLLOW_FROM_EXEC);
}

Result<> BpfWatcher::follow_running(const std::vector<pid_t>& processes) {
  for (pid_t pid : processes) TRY(state_->follow(pid, CAISSON_FOLLOW_NOW));
  return {};
}

void BpfWatcher::skip_program(const std::string& path) { state_->skipped_program = path; }

void BpfWatcher::hear_executions() {
  if (!state_->executions.valid()) return;
  auto places = file_systems();
  if (!places) return log::debug(places.error().message);
  for (const auto& at : *places)
    if (::fanotify_mark(state_->executions.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN_EXEC, AT_FDCWD, at.c_str()) < 0) log::debug(fail_errno("fanotify_mark " + at).error().message);
}

KernelUse BpfWatcher::kernel_use() const {
  KernelUse use{.known = true, .calls = {}, .capabilities_known = state_->hears_of_capabilities, .capabilities = {}};
  for (uint32_t number = 0; number < CAISSON_CALL_LIMIT; ++number)
    if (caisson_call call; bpf_map_lookup_elem(state_->map("calls"), &number, &call) == 0 && call.made != 0) use.calls.insert(static_cast<int>(number));
  for (uint32_t number = 0; number < CAISSON_CAPABILITY_LIMIT; ++number)
    if (uint8_t used; bpf_map_lookup_elem(state_->map("capabilities"), &number, &used) == 0 && used != 0) use.capabilities.insert(static_cast<int>(number));
  return use;
}

int BpfWatcher::fd() const { return state_->epoll.get(); }

void BpfWatcher::handle() {
  (void)ring_buffer__consume(state_->ring.get());
  if (state_->executions.valid()) state_->on_executions();
  uint32_t zero = 0;
  caisson_counters counters = {};
  if (bpf_map_lookup_elem(state_->map(".bss"), &zero, &counters) == 0) trace.lost = counters.lost;
}

}  // namespace caisson::capture
