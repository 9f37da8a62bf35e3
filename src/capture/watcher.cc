#include "capture/watcher.h"

#include "base/log.h"

namespace caisson::capture {

Result<std::unique_ptr<Watcher>> make_stopping_watcher(TraceMethod method) {
  if (method == TraceMethod::ptrace) return make_ptrace_watcher();
  auto notify = make_notify_watcher();
  if (notify || method == TraceMethod::notify) return notify;
  log::debug("watching with ptrace: " + notify.error().message);
  return make_ptrace_watcher();
}

Result<TraceMethod> parse_trace_method(std::string_view name) {
  if (name == "auto") return TraceMethod::automatic;
  if (name == "bpf") return TraceMethod::bpf;
  if (name == "notify") return TraceMethod::notify;
  if (name == "ptrace") return TraceMethod::ptrace;
  return fail("\"" + std::string(name) + "\" is none of auto, bpf, notify, ptrace");
}

}  // namespace caisson::capture
