#include "server/inference/batcher.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc_status.h"

namespace finetune {

// Past Submit, touched by the worker's thread alone.
struct Batcher::Request {
  ClassifyWork work;
  DoneFn done;
  absl::Time submitted;
  size_t unanswered = 0;
  absl::Status dropped;  // Not OK: no longer worth any work.
  ClassifyOutcome outcome;

  // Whether the answer is still wanted.
  bool IsAlive() {
    if (dropped.ok() && absl::Now() > work.deadline) {
      dropped = absl::DeadlineExceededError(
          "the deadline passed while the image waited");
    } else if (dropped.ok() && work.cancelled && work.cancelled()) {
      dropped = absl::CancelledError("the caller has gone");
    }
    return dropped.ok();
  }

  void FinishOne() {
    if (--unanswered > 0) return;
    if (dropped.ok()) {
      done(std::move(outcome));
    } else {
      done(dropped);
    }
  }
};

namespace {

// The edge of the exception world: Torch throws, we return.
BatchResult Classify(const Servable& servable,
                     const std::vector<absl::string_view>& images) try {
  return servable.classify(images);
} catch (const std::exception& e) {
  BatchResult failed;
  failed.images.assign(images.size(), absl::InternalError(e.what()));
  return failed;
}

}  // namespace

Batcher::Batcher(Options options)
    : options_(options), worker_([this] { Work(); }) {}

Batcher::~Batcher() { Shutdown(); }

void Batcher::Submit(ClassifyWork work, DoneFn done) {
  const size_t images = work.images.size();
  auto request = std::make_shared<Request>();
  request->work = std::move(work);
  request->done = std::move(done);
  request->submitted = absl::Now();
  request->unanswered = images;
  request->outcome.images.resize(images, absl::UnknownError("not answered"));

  absl::Status refused;
  {
    const MutexLock lock(mu_);
    if (closing_) {
      refused = ShuttingDownError();
    } else if (waiting_.size() + images > options_.max_waiting) {
      refused = RetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                               waiting_.size(), " images are waiting already")),
                           absl::Seconds(1));
    } else {
      for (size_t i = 0; i < images; ++i) waiting_.push_back({request, i});
    }
  }
  if (!refused.ok()) request->done(std::move(refused));
}

void Batcher::Shutdown() {
  {
    const MutexLock lock(mu_);
    closing_ = true;
  }
  if (worker_.joinable()) worker_.join();
}

void Batcher::Work() {
  while (true) {
    std::vector<Item> batch;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !waiting_.empty();
      });
      if (waiting_.empty()) return;
      batch = TakeBatch();
    }
    Run(std::move(batch));
  }
}

// The first image decides on the model; others of it may overtake.
std::vector<Batcher::Item> Batcher::TakeBatch() {
  const Servable* servable = waiting_.front().request->work.servable.get();
  std::vector<Item> batch;
  std::deque<Item> left;
  for (Item& item : waiting_) {
    const bool fits = batch.size() < options_.max_batch &&
                      item.request->work.servable.get() == servable;
    if (fits) {
      batch.push_back(std::move(item));
    } else {
      left.push_back(std::move(item));
    }
  }
  waiting_ = std::move(left);
  return batch;
}

void Batcher::Run(std::vector<Item> batch) {
  const absl::Time start = absl::Now();
  std::vector<Item> alive;
  std::vector<absl::string_view> images;
  for (Item& item : batch) {
    if (item.request->IsAlive()) {
      images.push_back(item.request->work.images[item.index]);
      alive.push_back(std::move(item));
    } else {
      item.request->FinishOne();
    }
  }
  if (alive.empty()) return;

  BatchResult result = Classify(*alive[0].request->work.servable, images);
  for (size_t i = 0; i < alive.size(); ++i) {
    ClassifyOutcome& outcome = alive[i].request->outcome;
    outcome.images[alive[i].index] = std::move(result.images[i]);
    outcome.queue = start - alive[i].request->submitted;
    outcome.preprocess = std::max(outcome.preprocess, result.preprocess);
    outcome.compute = std::max(outcome.compute, result.compute);
    outcome.batch_size =
        std::max(outcome.batch_size, static_cast<int>(alive.size()));
    alive[i].request->FinishOne();
  }
}

}  // namespace finetune
