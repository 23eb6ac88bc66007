// For tests of threads: a place that holds them up until it is opened.

#ifndef SERVER_INFERENCE_TESTING_GATE_H_
#define SERVER_INFERENCE_TESTING_GATE_H_

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace finetune::testing {

class Gate {
 public:
  explicit Gate(bool open = false) : open_(open) {}

  void Pass() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    ++entered_;
    mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_; });
  }
  // Until so many threads have come, whether they have left or not.
  void AwaitEntered(int threads = 1) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    mu_.Await([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return entered_ >= threads;
    });
  }
  void Open() ABSL_LOCKS_EXCLUDED(mu_) { Set(true); }
  void Close() ABSL_LOCKS_EXCLUDED(mu_) { Set(false); }
  int entered() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    return entered_;
  }

 private:
  void Set(bool open) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    open_ = open;
  }

  Mutex mu_;
  int entered_ ABSL_GUARDED_BY(mu_) = 0;
  bool open_ ABSL_GUARDED_BY(mu_);
};

}  // namespace finetune::testing

#endif  // SERVER_INFERENCE_TESTING_GATE_H_
