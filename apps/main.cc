// The one program. The only place that wires concrete types together.
#include <malloc.h>

#include <string>
#include <vector>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/oci.h"

int main(int argc, char** argv) {
  // The heap grows in few steps; what is not used of them is no memory.
  ::mallopt(M_TOP_PAD, 1 << 20);
  std::vector<std::string> arguments(argv + 1, argv + argc);
  // Also in the place of the runtime that every engine looks for.
  std::string_view name = caisson::base_name(argv[0]);
  if (name == "caisson-oci" || name == "runc") return caisson::cli::run_oci(arguments);
  if (!arguments.empty() && arguments[0] == "oci") return caisson::cli::run_oci({arguments.begin() + 1, arguments.end()});
  return caisson::cli::run_caisson(arguments);
}
