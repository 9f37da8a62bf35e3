// What the files of an instance are counted by.
#pragma once

namespace caisson::element {

enum Counter : int {
  kFilled,    ///< files written to the disk
  kCopied,    ///< copies in memory
  kAnswered,  ///< questions answered from the package alone
  kRemoved,
};

}  // namespace caisson::element
