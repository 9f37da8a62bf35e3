// A monitor's part in filling its container's image as it is read (lazy/image.h): it holds the
// group of watched files, and starts the filler again where that was killed.
#pragma once

#include <functional>

#include "base/event_loop.h"
#include "lazy/image.h"

namespace caisson::lazy {

class FillerWatch {
 public:
  using Complain = std::function<void(const std::string& text)>;
  FillerWatch(EventLoop& loop, Places places, Complain complain) : loop_(loop), places_(std::move(places)), complain_(std::move(complain)) {}

  /// `layers`: the container's, by diff id.
  [[nodiscard]] Result<> watch(Filling filling, const std::vector<std::string>& layers);
  /// Of a container that runs already; starts the filler where there is something to fill.
  [[nodiscard]] Result<> find(const std::vector<std::string>& layers);

 private:
  void ended();
  void again();

  EventLoop& loop_;
  Places places_;
  Complain complain_;
  std::vector<std::string> layers_;
  Filling filling_;
};

}  // namespace caisson::lazy
