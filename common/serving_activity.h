// Whether a server is answering calls right now, told to its trainers through a
// page of memory: they share the GPU, and give way only while it matters.

#ifndef COMMON_SERVING_ACTIVITY_H_
#define COMMON_SERVING_ACTIVITY_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace finetune {

// Thread-safe. Costs a store a call, and a load a question.
class ServingActivity {
 public:
  // A page of this process's, whose descriptor a child may inherit.
  static absl::StatusOr<std::unique_ptr<ServingActivity>> Create();

  // The page behind `fd`, which need not stay open. INVALID_ARGUMENT if it is
  // no such page; the one that opens another program's file reads nonsense.
  static absl::StatusOr<std::unique_ptr<ServingActivity>> Open(int fd);

  ~ServingActivity();

  ServingActivity(const ServingActivity&) = delete;
  ServingActivity& operator=(const ServingActivity&) = delete;

  // A call is being answered.
  void Note();

  // Whether one was noted within the last `window`. False before the first.
  bool WithinLast(absl::Duration window) const;

  // Closed on exec; -1 for one that was opened.
  int fd() const { return fd_; }

 private:
  ServingActivity(int fd, std::atomic<int64_t>* page) : fd_(fd), page_(page) {}

  const int fd_;
  // Of the system's monotonic clock, in nanoseconds; 0: never.
  std::atomic<int64_t>* const page_;
};

}  // namespace finetune

#endif  // COMMON_SERVING_ACTIVITY_H_
