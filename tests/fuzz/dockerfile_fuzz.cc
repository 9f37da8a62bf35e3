// Dockerfiles, their words and .dockerignore rules.
#include <cstdint>
#include <string>

#include "build/builder_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::build;
  std::string text(reinterpret_cast<const char*>(data), size);
  auto rules = IgnoreRules::parse(text);
  (void)rules.ignores("a/b/c.txt");
  auto file = parse_dockerfile(text, "fuzz");
  if (!file) return 0;
  auto stages = divide(std::move(*file), {{"A", "b"}});
  if (!stages) return 0;
  for (const auto& stage : stages->stages) {
    State state;
    for (const auto& step : stage.steps) {
      (void)change_config(step, *stages, {{"A", "b"}}, state);
      (void)expand_words(step.text, state.lookup(), stages->escape);
    }
  }
  return 0;
}
