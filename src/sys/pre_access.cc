#include "sys/pre_access.h"

#include <poll.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "sys/in_root.h"

namespace caisson::sys {
namespace {

// Not in the C library's headers yet (linux/fanotify.h).
constexpr uint64_t kPreAccess = 0x00100000;
constexpr uint8_t kInfoRange = 6;
struct Range {
  uint8_t info_type, pad;
  uint16_t len;
  uint32_t reserved;
  uint64_t offset, count;
};
constexpr uint32_t deny_with(int error) { return FAN_DENY | static_cast<uint32_t>(error) << 24; }

}  // namespace

Result<PreAccess> PreAccess::open() {
  Fd group(::fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS, O_RDWR | O_LARGEFILE | O_CLOEXEC | O_NOATIME));
  if (!group.valid()) return fail_errno("watch for accesses (fanotify)");
  return PreAccess(std::move(group));
}

Result<Fd> PreAccess::watch(const std::string& path) {
  if (::fanotify_mark(group_.get(), FAN_MARK_ADD, kPreAccess, AT_FDCWD, path.c_str()) < 0) return fail_errno("watch for accesses to " + path);
  // Descriptors that come with an event are the only ones that cause none: one is caused.
  Fd file = TRY(open_file(path, O_RDONLY));
  std::jthread reader([&] {
    char byte;
    (void)::pread(file.get(), &byte, 1, 0);
  });
  auto own = own_access(path);
  // Nobody waits for a group that has ended.
  if (!own) group_.reset();
  return own;
}

Result<Fd> PreAccess::own_access(const std::string& path) {
  for (;;) {
    TRY(receive());
    for (auto told = told_.begin(); told != told_.end(); ++told)
      if (told->pid == ::getpid()) {
        Fd own = std::move(told->access.file);
        told_.erase(told);
        allow(own.get());
        return own;
      }
    struct pollfd ready = {group_.get(), POLLIN, 0};
    if (::poll(&ready, 1, -1) < 0 && errno != EINTR) return fail_errno("watch for accesses to " + path);
  }
}

/// What there is, or a part of it.
Result<> PreAccess::receive() {
  alignas(struct fanotify_event_metadata) char buffer[2048];
  ssize_t left;
  do {
    left = ::read(group_.get(), buffer, sizeof buffer);
  } while (left < 0 && errno == EINTR);
  if (left < 0 && errno == EAGAIN) return {};
  if (left < 0) return fail_errno("read what is accessed (fanotify)");
  auto* event = reinterpret_cast<struct fanotify_event_metadata*>(buffer);
  for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
    if (event->vers != FANOTIFY_METADATA_VERSION) return fail("fanotify speaks another version", EPROTO);
    if (event->fd < 0) continue;
    Told told{{Fd(event->fd), 0, UINT64_MAX}, event->pid};
    const char* info = reinterpret_cast<const char*>(event) + event->metadata_len;
    const char* end = reinterpret_cast<const char*>(event) + event->event_len;
    while (info + sizeof(struct fanotify_event_info_header) <= end) {
      Range range = {};
      std::memcpy(&range, info, std::min<size_t>(sizeof range, static_cast<size_t>(end - info)));
      if (range.info_type == kInfoRange) told.access.offset = range.offset, told.access.size = range.count;
      if (range.len == 0) break;
      info += range.len;
    }
    told_.push_back(std::move(told));
  }
  return {};
}

Result<std::optional<PreAccess::Access>> PreAccess::next() {
  if (told_.empty()) TRY(receive());
  if (told_.empty()) return std::nullopt;
  Access out = std::move(told_.front().access);
  told_.pop_front();
  return out;
}

void PreAccess::answer(int access, int error) const {
  struct fanotify_response response = {access, error == 0 ? static_cast<uint32_t>(FAN_ALLOW) : deny_with(error)};
  (void)!::write(group_.get(), &response, sizeof response);
}

void PreAccess::leave(int file) const { (void)::fanotify_mark(group_.get(), FAN_MARK_REMOVE, kPreAccess, file, nullptr); }

void PreAccess::end(int below) {
  ::fanotify_mark(group_.get(), FAN_MARK_FLUSH, 0, AT_FDCWD, nullptr);
  for (int number = 0; number < below; ++number) allow(number);
  for (auto access = next(); access && *access; access = next()) allow((*access)->file.get());
}

bool PreAccess::is_group(int fd) {
  char target[64] = {};
  return ::readlink(fd_path(fd).c_str(), target, sizeof target - 1) > 0 && std::string_view(target) == "anon_inode:[fanotify]";
}

bool can_watch(const std::string& folder) {
  auto watched = [&]() -> Result<> {
    PreAccess group = TRY(PreAccess::open());
    Fd file = TRY(open_file(folder, O_TMPFILE | O_RDWR, 0600));
    if (::fanotify_mark(group.fd(), FAN_MARK_ADD, kPreAccess, AT_FDCWD, fd_path(file.get()).c_str()) < 0) return fail_errno("fanotify_mark");
    return {};
  }();
  return watched.has_value();
}

}  // namespace caisson::sys
