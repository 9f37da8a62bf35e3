#include "lazy/image.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/descriptor_record.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "image/layer_store.h"
#include "sys/pre_access.h"

namespace caisson::lazy {

std::vector<std::string> environment() {
  std::vector<std::string> out{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  for (const char* name : {"HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"})
    if (const char* value = ::getenv(name)) out.push_back(std::string(name) + "=" + value);
  return out;
}

LazyImage::LazyImage(Places places, const image::Lower& lower, std::vector<std::string> diff_ids)
    : places_(std::move(places)), diff_ids_(std::move(diff_ids)), folder_(places_.run_root + "/lazy/" + std::string(base_name(lower.index))) {}

Result<Filling> LazyImage::get() const {
  TRY(make_dirs(folder_ + "/holders", 0700));
  constexpr int64_t kLongest = 30'000;  // ms
  for (int64_t end = monotonic_ms() + kLongest;;) {
    auto lines = split(read_file(ready_path()).value_or(""), '\n', true);
    if (lines.size() == 2) {
      Filling out{copy_descriptor(lines[0]), copy_descriptor(lines[1]), open_recorded_process(lines[0])};
      if (out.mount.valid() && out.group.valid() && out.process.valid()) {
        // A later filler has the same group, by this.
        TRY(open_file(folder_ + "/holders/" + TRY(descriptor_record(out.group.get())), O_WRONLY | O_CREAT, 0600));
        return out;
      }
    }
    if (!image::LayerStore(places_.root + "/layers").expects_any(diff_ids_)) return fail("nothing is left to be fetched", ENOENT);
    if (monotonic_ms() > end) return fail("what fills the image as it is read does not begin (see " + folder_ + "/log)", ETIMEDOUT);
    // Another one may be beginning, or about to end.
    if (FileLock::try_acquire(folder_ + "/lock"))
      TRY(start_filler());
    else
      ::usleep(2000);
  }
}

Result<> LazyImage::start_filler() const {
  TRY(replace_file(folder_ + "/layers", join(diff_ids_, "\n")));
  std::vector<std::string> arguments{"--root", places_.root, "--run-root", places_.run_root, "fill-image"};
  arguments.insert(arguments.end(), diff_ids_.begin(), diff_ids_.end());
  auto text = start_service(std::move(arguments), environment(), folder_ + "/log");
  if (!text) return fail("start what fills the image: " + text.error().message, text.error().code);
  if (*text == "ok") return {};
  return fail(text->empty() ? "what fills the image as it is read ended at once (see " + folder_ + "/log)" : *text);
}

Fd LazyImage::held_group() const {
  for (const auto& name : list_dir(folder_ + "/holders").value_or(std::vector<std::string>())) {
    // Who has let go of it may have another file under that number by now.
    if (Fd group = copy_descriptor(name); group.valid() && sys::PreAccess::is_group(group.get())) return group;
    ::unlink((folder_ + "/holders/" + name).c_str());
  }
  return {};
}

Result<FileLock> LazyImage::begin() const {
  TRY(make_dirs(folder_ + "/holders", 0700));
  FileLock lock = TRY(FileLock::try_acquire(folder_ + "/lock"));
  TRY(replace_file(folder_ + "/process", TRY(descriptor_record(0))));
  return lock;
}

Result<> LazyImage::set_ready(int mount, int group) const { return replace_file(ready_path(), TRY(descriptor_record(mount)) + "\n" + TRY(descriptor_record(group)) + "\n"); }
Result<uint32_t> LazyImage::take_numbers(uint32_t count, bool taken_over) const {
  std::string path = folder_ + "/numbers";
  uint32_t first = taken_over ? static_cast<uint32_t>(TRY(parse_uint(trim(read_file(path).value_or("0")), UINT32_MAX / 2), path)) : 0;
  TRY(replace_file(path, std::to_string(first + count)));
  return first;
}

void LazyImage::set_ended() const { ::unlink(ready_path().c_str()); }

void LazyImage::revive_all(const Places& places) {
  for (const auto& name : list_dir(places.run_root + "/lazy").value_or(std::vector<std::string>())) {
    LazyImage image(places, {{}, name, {}}, split(read_file(places.run_root + "/lazy/" + name + "/layers").value_or(""), '\n', true));
    // That of the one that is at work is held.
    if (!FileLock::try_acquire(image.folder_ + "/lock")) continue;
    if (!image.held()) {
      if (auto tidied = image.tidy(); !tidied) log::warning("image " + name.substr(0, 12) + ": " + tidied.error().message);
    } else if (!image.diff_ids_.empty()) {
      if (auto begun = image.start_filler(); !begun) log::warning("image " + name.substr(0, 12) + ": " + begun.error().message);
    }
  }
}

Result<> LazyImage::tidy() const {
  image::LayerStore layers(places_.root + "/layers");
  bool filled = std::any_of(diff_ids_.begin(), diff_ids_.end(), [&](const std::string& id) { return layers.is_lazy(id); });
  if (filled || held() || (exists(folder_) && !FileLock::try_acquire(folder_ + "/lock"))) return {};
  for (const auto& id : diff_ids_)
    if (layers.expects(id)) TRY(layers.complete(id));
  return remove_tree(folder_);
}

void LazyImage::end_all(const std::string& run_root) {
  std::string folder = run_root + "/lazy";
  for (const auto& name : list_dir(folder).value_or(std::vector<std::string>())) {
    Fd process = open_recorded_process(read_file(folder + "/" + name + "/process").value_or(""));
    if (!process.valid() || ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) < 0) continue;
    struct pollfd ended = {process.get(), POLLIN, 0};
    constexpr int kMost = 5000;  // ms
    ::poll(&ended, 1, kMost);
  }
}

}  // namespace caisson::lazy
