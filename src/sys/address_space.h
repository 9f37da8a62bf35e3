// Where the kernel lays out what a program is made of (x86-64).
#pragma once

#include <cstdint>

namespace caisson::sys {

/// Programs at an address of their own, and those that are position independent and have a loader, lie below
/// 0x6600'0000'0000, also with as much randomness as there is; libraries, the vDSO and static programs that are position
/// independent above 0x6e00'0000'0000 (mmap(2) goes down from the stack). This is between the two.
inline constexpr uint64_t kLibrariesBegin = 0x6a00'0000'0000;

}  // namespace caisson::sys
