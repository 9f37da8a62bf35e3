#include "image/drop_behind.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "sys/page_cache.h"

namespace caisson::image {
namespace {

constexpr uint64_t kPage = 4096;  // bytes
/// What the kernel reads ahead at once is some hundred KiB, or some MiB where it was told so.
constexpr uint64_t kPart = 8 << 20;  // bytes
constexpr int64_t kGrace = 300'000;  // ms for which what was in memory to begin with stays there
/// Long enough for a reader to get through what was read ahead for it.
constexpr int64_t kShortest = 250, kLongest = 60'000;  // ms

}  // namespace

ReadTars::ReadTars(const std::vector<std::string>& tars) {
  for (const auto& path : tars) {
    auto file = open_file(path, O_RDONLY);
    struct stat st = {};
    if (!file || ::fstat(file->get(), &st) < 0) continue;
    Tar tar{std::move(*file), 0, false, std::vector<Part>((static_cast<uint64_t>(st.st_size) + kPart - 1) / kPart)};
    for (size_t i = 0; i < tar.parts.size(); ++i)
      if (uint64_t pages = tar.cached(i); pages * kPage >= std::min(kPart, static_cast<uint64_t>(st.st_size) - i * kPart)) tar.parts[i].left = static_cast<uint32_t>(pages);
    tars_.push_back(std::move(tar));
  }
}

uint64_t ReadTars::Tar::cached(size_t part) const { return sys::cached_pages(file.get(), part * kPart, kPart).value_or(0); }

bool ReadTars::look() {
  bool soon = false;
  for (auto& tar : tars_) soon |= look(tar);
  return soon;
}

void ReadTars::keep_nothing() {
  for (auto& tar : tars_) {
    tar.reading = true;
    for (auto& part : tar.parts) part.left = 0;
  }
}

bool ReadTars::look(Tar& tar) {
  // Without a size: to the end.
  uint64_t pages = sys::cached_pages(tar.file.get(), 0, 0).value_or(0);
  if (pages == tar.pages && !tar.reading) return false;
  tar.reading = false;
  for (size_t i = 0; i < tar.parts.size(); ++i) {
    Part& part = tar.parts[i];
    auto now = static_cast<uint32_t>(tar.cached(i));
    if (now == part.before && now > part.left) {
      sys::drop_cached(tar.file.get(), i * kPart, kPart);
      part.left = now = static_cast<uint32_t>(tar.cached(i));
    }
    part.left = std::min(part.left, now);
    part.before = now;
    tar.reading |= now > part.left;
  }
  tar.pages = sys::cached_pages(tar.file.get(), 0, 0).value_or(0);
  return tar.reading;
}

void DropBehind::begin(const Lower& lower, std::string lock) {
  if (lower.lazy || lower.tars.empty() || !lock_path_.empty()) return;
  paths_ = lower.tars;
  lock_path_ = std::move(lock);
  loop_.after(0, [this] { look(); });
}

void DropBehind::look() {
  if (!tars_) {
    auto lock = FileLock::try_acquire(lock_path_);
    if (!lock) return loop_.after(kLongest, [this] { look(); });
    lock_ = std::move(*lock);
    tars_ = std::make_unique<ReadTars>(paths_);
    loop_.after(kGrace, [this] { tars_->keep_nothing(); });
  }
  pause_ = tars_->look() ? kShortest : std::clamp(pause_ * 2, kShortest, kLongest);
  loop_.after(pause_, [this] { look(); });
}

}  // namespace caisson::image
