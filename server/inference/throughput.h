// How many images a second come out while there is enough to do, over the
// last some seconds: what a queue's length is divided by to tell its time.

#ifndef SERVER_INFERENCE_THROUGHPUT_H_
#define SERVER_INFERENCE_THROUGHPUT_H_

#include <optional>

#include "absl/time/time.h"

namespace finetune {

// Not thread-safe.
class Throughput {
 public:
  // `images` were answered at `now`. `more` wait: the time to the next answer
  // counts, as it will not be spent idle.
  void Add(size_t images, bool more, absl::Time now);

  // Images a second, > 0; nothing until a second's work has been seen, and
  // nothing after ten seconds without.
  std::optional<double> Rate(absl::Time now) const;

 private:
  // Both fade, by the half in 1.4 s of work.
  double seconds_ = 0;
  double images_ = 0;
  absl::Time last_ = absl::InfinitePast();
  bool busy_ = false;  // Since `last_`.
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_THROUGHPUT_H_
