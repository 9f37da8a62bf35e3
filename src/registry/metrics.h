// What a server has done since it began, for Prometheus. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace caisson::registry {

class Metrics {
 public:
  void begun();
  /// `status`: 0 where the connection broke off before an answer.
  void ended(const std::string& method, int status, double seconds);
  /// In its text format 0.0.4.
  [[nodiscard]] std::string text() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  uint64_t under_way_ = 0, count_ = 0;
  double seconds_ = 0;
};

}  // namespace caisson::registry
