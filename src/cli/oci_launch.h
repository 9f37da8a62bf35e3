// The commands of `caisson oci` that start processes.
#pragma once

#include "cli/command.h"

namespace caisson::cli {
extern const Command kOciCreate, kOciRun, kOciExec, kOciCheckpoint, kOciRestore;
}  // namespace caisson::cli
