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

/// `next_NAME`: what a function of that name and type would have been without this element.
#define CAISSON_NEXT(name) static caisson::element::Next<decltype(name)> next_##name(#name)

/// In a function `long syscall(long number, ...)`: its six arguments, a to f.
#define CAISSON_CALL_ARGUMENTS(number)                                                        \
  va_list arguments;                                                                          \
  va_start(arguments, number);                                                                \
  long a = va_arg(arguments, long), b = va_arg(arguments, long), c = va_arg(arguments, long); \
  long d = va_arg(arguments, long), e = va_arg(arguments, long), f = va_arg(arguments, long); \
  va_end(arguments)
