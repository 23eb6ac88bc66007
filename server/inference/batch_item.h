// What goes through the batcher: requests, and their images one by one.

#ifndef SERVER_INFERENCE_BATCH_ITEM_H_
#define SERVER_INFERENCE_BATCH_ITEM_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/buffer.h"
#include "server/inference/servable.h"

namespace finetune {

struct ClassifyWork {
  std::shared_ptr<const Servable> servable;  // Answers all of the images.
  std::vector<absl::string_view> images;     // Encoded; alive until `done`.
  absl::Time deadline = absl::InfiniteFuture();
  // Whether the caller has gone. Quick, since the batcher asks under its lock,
  // and takes no lock that is held while the batcher is called. Empty: never.
  std::function<bool()> cancelled;
};

struct ClassifyOutcome {
  std::vector<absl::StatusOr<Probabilities>> images;  // As in the work.
  // The largest of each among the images: waiting for a thread, decoding and
  // transforming, the forward pass.
  absl::Duration queue, preprocess, compute;
  int batch_size = 0;  // Of the largest batch that held one of the images.
};

// A request on its way. Past its construction, under the batcher's lock.
struct PendingClassify {
  ClassifyWork work;
  std::function<void(absl::StatusOr<ClassifyOutcome>)> done;
  absl::Time submitted;
  size_t unanswered = 0;  // Images; `done` is called with the last.
  absl::Status dropped;   // Not OK: no longer worth any work, and why.
  ClassifyOutcome outcome;

  // Whether the answer is still wanted; sets `dropped` where it is not.
  bool IsWanted(absl::Time now) {
    if (dropped.ok() && now > work.deadline) {
      dropped = absl::DeadlineExceededError(
          "the deadline passed while the image waited");
    } else if (dropped.ok() && work.cancelled && work.cancelled()) {
      dropped = absl::CancelledError("the caller has gone");
    }
    return dropped.ok();
  }
};

// One image of a request.
struct BatchItem {
  std::shared_ptr<PendingClassify> request;
  size_t index = 0;  // Into the request's images.
  // From when it is decoded:
  Buffer input;  // Pixels.
  absl::Duration preprocess;
  absl::Time ready;

  const Servable* model() const { return request->work.servable.get(); }
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_BATCH_ITEM_H_
