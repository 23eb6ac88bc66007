// What a batcher has to do, by model, and the rules of who is next: values
// only, no threads.
//
//   encoded -> being decoded -> ready -> computing
//   `------------ waiting ----------'
//
// Models take turns, image by image at decoding and batch by batch at
// computing, so that a busy one cannot starve another. Nor can it fill the
// queue: an eighth of what other models leave free is always kept for models
// that have nothing in it.

#ifndef SERVER_INFERENCE_BATCH_QUEUE_H_
#define SERVER_INFERENCE_BATCH_QUEUE_H_

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "server/inference/batch_item.h"

namespace finetune {

// Not thread-safe. Counts are of images.
class BatchQueue {
 public:
  struct Limits {
    size_t max_batch;          // In a forward pass, >= 1.
    size_t workers;            // Forward passes at once, >= 1.
    size_t max_waiting;        // >= 1.
    size_t max_decoded;        // Ready or being decoded, and one a model more.
    absl::Duration max_delay;  // See NextStart.
  };
  struct Batch {
    std::vector<BatchItem> items;    // Of one model, now computing.
    std::vector<BatchItem> dropped;  // Not wanted any more, removed.
  };

  explicit BatchQueue(Limits limits) : limits_(limits) {}

  size_t waiting() const { return waiting_; }
  size_t computing() const { return computing_; }

  // Whether `images` more of `model` may wait.
  bool HasRoom(const Servable* model, size_t images) const;

  // About how many images will have been answered when `images` more of `model`
  // are, themselves included.
  size_t CountUntilAnswered(const Servable* model, size_t images) const;

  // All images of a request.
  void Add(const std::shared_ptr<PendingClassify>& request);

  // Whether an image is to be decoded and may be.
  bool CanDecode() const;
  // Whether a worker is to decode it itself: it is all there is in here, and
  // another worker is left to compute what comes meanwhile.
  bool HasLoneEncoded() const;
  bool HasEncoded() const;
  // The next image, now being decoded. REQUIRES: CanDecode().
  BatchItem TakeEncoded();
  // Ends decoding; the item, with input and time, is ready.
  void AddReady(BatchItem item);
  // Ends decoding otherwise: the item is answered.
  void EndDecode(const BatchItem& item);

  // When the next batch is to start if no image comes until then, for a thread
  // that has been idle since `idle_since`: InfiniteFuture if nothing is ready,
  // InfinitePast if a model's ready images are a worker's share or all that
  // waits of it. Otherwise, when a thread has been idle and the image that is
  // ready for longest has waited for `max_delay`.
  absl::Time NextStart(absl::Time idle_since) const;

  // The batch that is due, if there is one: at most a worker's share.
  Batch TakeBatch(absl::Time now, absl::Time idle_since);
  void EndBatch(size_t images) { computing_ -= images; }

  // What waits and is not wanted any more; what waits at all. Not what is being
  // decoded. Linear in what waits.
  std::vector<BatchItem> RemoveUnwanted(absl::Time now);
  std::vector<BatchItem> RemoveAll();

 private:
  // A model's images.
  struct Lane {
    std::deque<BatchItem> encoded;
    size_t decoding = 0;
    std::deque<BatchItem> ready;  // In order of their `ready`.

    size_t waiting() const { return encoded.size() + decoding + ready.size(); }
  };
  // No empty ones. The images hold the models.
  using Lanes = std::map<const Servable*, Lane>;

  // An even part of all that is in here, computing or not, and at most a batch:
  // one worker with many would keep them waiting, while others soon have none.
  size_t Share() const;
  bool MayDecode(const Lane& lane) const;
  absl::Time StartOf(const Lane& lane, absl::Time idle_since) const;
  template <typename Condition>
  Lanes::iterator NextInTurn(const Servable* last, Condition condition);
  template <typename Condition>
  std::vector<BatchItem> RemoveIf(Condition condition);
  void EraseIfEmpty(Lanes::iterator lane);

  const Limits limits_;
  Lanes lanes_;
  // Whose turn it was, to compare only: may be gone.
  const Servable* last_decoded_ = nullptr;
  const Servable* last_computed_ = nullptr;
  size_t waiting_ = 0;
  size_t decoding_ = 0;
  size_t ready_ = 0;
  size_t computing_ = 0;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_BATCH_QUEUE_H_
