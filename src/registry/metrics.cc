#include "registry/metrics.h"

#include <cstdio>
#include <set>

namespace caisson::registry {

void Metrics::begun() {
  std::lock_guard guard(mutex_);
  ++under_way_;
}

void Metrics::ended(const std::string& method, int status, double seconds) {
  // Whatever a client calls its method, the number of series is bounded.
  static const std::set<std::string> known{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};
  std::lock_guard guard(mutex_);
  --under_way_;
  ++count_;
  seconds_ += seconds;
  ++requests_[{known.contains(method) ? method : "other", status}];
}

std::string Metrics::text() const {
  std::lock_guard guard(mutex_);
  std::string out = "# HELP caisson_registry_requests_total Requests by method and status; status 0 had no answer.\n# TYPE caisson_registry_requests_total counter\n";
  for (const auto& [what, count] : requests_) out += "caisson_registry_requests_total{method=\"" + what.first + "\",status=\"" + std::to_string(what.second) + "\"} " + std::to_string(count) + "\n";
  char sum[64];
  std::snprintf(sum, sizeof sum, "%.6f", seconds_);
  out += "# HELP caisson_registry_request_seconds Time from a request's head to the end of its answer.\n# TYPE caisson_registry_request_seconds summary\n";
  out += "caisson_registry_request_seconds_sum " + std::string(sum) + "\ncaisson_registry_request_seconds_count " + std::to_string(count_) + "\n";
  out += "# HELP caisson_registry_requests_under_way Requests that have no answer yet.\n# TYPE caisson_registry_requests_under_way gauge\n";
  return out + "caisson_registry_requests_under_way " + std::to_string(under_way_) + "\n";
}

}  // namespace caisson::registry
