#include <set>

#include "runtime/internal.h"
#include "sys/user_db.h"

namespace caisson::runtime {

Result<std::vector<std::string>> final_environment(const oci::Process& process, const sys::RootDir& root) {
  std::vector<std::string> out;
  std::set<std::string_view> seen;
  bool has_home = false;
  for (auto e = process.env.rbegin(); e != process.env.rend(); ++e) {
    std::string_view name = std::string_view(*e).substr(0, e->find('='));
    if (!seen.insert(name).second) continue;
    if (name == "HOME") {
      if (e->size() <= 5) continue;
      has_home = true;
    }
    out.push_back(*e);
  }
  if (!has_home) {
    auto home = sys::home_of(root, process.user.uid);
    out.push_back("HOME=" + (home ? *home : "/"));
  }
  return std::vector<std::string>(out.rbegin(), out.rend());
}

}  // namespace caisson::runtime
