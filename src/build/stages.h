// A Dockerfile divided into its stages.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "build/dockerfile.h"
#include "build/words.h"

namespace caisson::build {

struct Stage {
  std::string name;     ///< of "FROM … AS name", in lower case
  std::string base;     ///< an image, a stage's name, or "scratch"
  int base_stage = -1;  ///< where `base` is a stage before this one
  Instruction from;
  std::vector<Instruction> steps;
};

struct Stages {
  std::vector<Stage> stages;
  /// ARGs before the first FROM, as their defaults and --build-arg have them.
  std::map<std::string, std::string> global_args;
  char escape = '\\';

  /// By name or number; those before stage `before` alone. -1: none.
  [[nodiscard]] int find(const std::string& name, int before) const;
};

/// What is set without an ARG's default: --build-arg, and this platform's variables.
[[nodiscard]] std::map<std::string, std::string> platform_args();
[[nodiscard]] Result<Stages> divide(Dockerfile file, const std::map<std::string, std::string>& build_args);

}  // namespace caisson::build
