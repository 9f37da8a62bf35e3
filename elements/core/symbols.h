// The functions that an element stands in front of.
#pragma once

namespace caisson::element {

/// The next definition of a symbol behind this object in the order of loading: what the
/// program would have called without it. Null where there is none (yet). Of several versions
/// the default one. Takes the loader's lock; not for signal handlers.
void* next_symbol(const char* name);

/// Looked up once, when it is first called.
template <class F>
class Next {
 public:
  constexpr explicit Next(const char* name) : name_(name) {}
  F* get() {
    void* found = __atomic_load_n(&found_, __ATOMIC_RELAXED);
    if (found == nullptr) __atomic_store_n(&found_, found = next_symbol(name_), __ATOMIC_RELAXED);
    return reinterpret_cast<F*>(found);
  }

 private:
  const char* name_;
  void* found_ = nullptr;
};

}  // namespace caisson::element
