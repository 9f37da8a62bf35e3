#include "lazy/watch.h"

#include <sys/epoll.h>

namespace caisson::lazy {

Result<> FillerWatch::watch(Filling filling, const std::vector<std::string>& layers) {
  layers_ = layers;
  filling_.process = std::move(filling.process);
  // It is the same group as long as somebody holds it.
  if (!filling_.group.valid()) filling_.group = std::move(filling.group);
  return loop_.add(filling_.process.get(), EPOLLIN, [this](uint32_t) { ended(); });
}

Result<> FillerWatch::find(const std::vector<std::string>& layers) {
  layers_ = layers;
  image::LayerStore store(places_.root + "/layers");
  if (store.expects_any(layers_)) {
    auto lower = TRY(store.find(layers_));
    auto filling = LazyImage(places_, lower, layers_).get();
    if (filling) return watch(std::move(*filling), layers_);
    if (filling.error().code != ENOENT) return detail::propagate(std::move(filling).error());
  }
  filling_ = {};
  return {};
}

/// It is done, or was killed: then those who read wait for the next one.
void FillerWatch::ended() {
  loop_.remove(filling_.process.get());
  filling_.process.reset();
  again();
}

void FillerWatch::again() {
  auto found = find(std::vector<std::string>(layers_));
  if (found) return;
  complain_("the image is not here as a whole, and nobody fetches the rest: " + found.error().message);
  constexpr int64_t kPause = 5000;  // ms
  loop_.after(kPause, [this] { again(); });
}

}  // namespace caisson::lazy
