// System calls that a program asks for by number, through syscall(3).
#pragma once

namespace caisson::element {

// Each answers those of its own kind: false, and nothing has happened, for others.
bool open_by_number(long number, const long (&arguments)[6], long& result);
bool stat_by_number(long number, const long (&arguments)[6], long& result);
bool change_by_number(long number, const long (&arguments)[6], long& result);

}  // namespace caisson::element
