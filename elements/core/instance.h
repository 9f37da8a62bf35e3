// This process's instance of the element, as the host sees it (caisson/element.h).
#pragma once

#include "caisson/element.h"

namespace caisson::element {

/// Makes the page. Runs in: the element's constructor, before the program's main.
void make_instance(const char* name, caisson_linkage linkage, const char* const counters[]);
/// The page; after a fork, one for this process, made now.
caisson_element_page& instance();
/// Counts an event of this process.
inline void count(int counter) { __atomic_fetch_add(&instance().counters[counter], 1, __ATOMIC_RELAXED); }

}  // namespace caisson::element
