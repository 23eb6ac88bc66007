// Who goes first where there are fewer cores than threads with work.

#ifndef COMMON_YIELD_TO_CALLERS_H_
#define COMMON_YIELD_TO_CALLERS_H_

#include <sys/resource.h>

namespace finetune {

// For a thread that computes: lets those that talk to callers go first, since
// what they do is short. The threads that it starts inherit it.
inline void YieldToCallers() {
  constexpr int kNice = 10;
  setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + kNice);
}

}  // namespace finetune

#endif  // COMMON_YIELD_TO_CALLERS_H_
