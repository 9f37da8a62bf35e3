// Memory for as long as it lives: the program's own is not touched, and its stacks may be small.
#pragma once

#include <sys/mman.h>

#include "core/sys.h"

namespace caisson::element {

class Scratch {
 public:
  explicit Scratch(size_t size) : size_(size) {
    long at = call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at > 0 || at < -4095) at_ = reinterpret_cast<char*>(at);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (at_ != nullptr) call(SYS_munmap, at_, size_);
  }
  [[nodiscard]] char* get() const { return at_; }

 private:
  size_t size_;
  char* at_ = nullptr;
};

}  // namespace caisson::element
