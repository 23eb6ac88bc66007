#include "server/inference/batcher.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "common/yield_to_callers.h"

namespace finetune {
namespace {

// Of the time that an answer is expected to take, so that it comes before its
// deadline where the machine turns slower meanwhile.
constexpr double kDeadlineMargin = 1.25;

// The edge of the exception world: Torch throws, we return.
absl::StatusOr<std::vector<Probabilities>> Forward(
    const Servable& servable, const std::vector<const uint8_t*>& inputs,
    int threads) try {
  std::vector<Probabilities> outputs = servable.loaded.forward(inputs, threads);
  if (outputs.size() != inputs.size()) {
    return absl::InternalError(absl::StrCat("the model gave ", outputs.size(),
                                            " answers to ", inputs.size(),
                                            " images"));
  }
  return outputs;
} catch (const std::exception& e) {
  return absl::InternalError(e.what());
}

BatchQueue::Limits LimitsOf(const Batcher::Options& options) {
  return {
      .max_batch = options.max_batch,
      .workers = static_cast<size_t>(options.workers),
      .max_waiting = options.max_waiting,
      .max_decoded = options.max_batch * static_cast<size_t>(options.workers),
      .max_delay = options.max_delay};
}

}  // namespace

Batcher::Batcher(Options options, PreprocessFn preprocess)
    : options_(std::move(options)),
      preprocess_(std::move(preprocess)),
      queue_(LimitsOf(options_)) {
  for (int i = 0; i < options_.preprocess_threads; ++i) {
    threads_.emplace_back([this] { Preprocess(); });
  }
  for (int i = 0; i < options_.workers; ++i) {
    threads_.emplace_back([this] { Compute(); });
  }
}

Batcher::~Batcher() { Shutdown(); }

void Batcher::Submit(ClassifyWork work, DoneFn done) {
  const size_t images = work.images.size();
  const absl::Time now = options_.now();
  auto request =
      std::make_shared<PendingClassify>(PendingClassify{.work = std::move(work),
                                                        .done = std::move(done),
                                                        .submitted = now,
                                                        .unanswered = images});
  request->outcome.images.resize(images, absl::UnknownError("not answered"));

  absl::Status refused;
  Finished finished;
  std::vector<BatchItem> dropped;
  {
    const MutexLock lock(mu_);
    refused = CheckAdmission(*request, now);
    if (absl::IsResourceExhausted(refused)) {
      dropped = queue_.RemoveUnwanted(now);
      for (BatchItem& item : dropped) Drop(item, finished);
      refused = CheckAdmission(*request, now);
    }
    if (refused.ok()) {
      queue_.Add(request);
    } else {
      CountFailed(refused, images);
    }
  }
  CallBack(std::move(finished));
  if (!refused.ok()) request->done(std::move(refused));
}

absl::Status Batcher::CheckAdmission(PendingClassify& request,
                                     absl::Time now) const {
  if (closing_) return ShuttingDownError();
  if (!request.IsWanted(now)) return request.dropped;
  const Servable* const model = request.work.servable.get();
  const size_t images = request.work.images.size();
  if (!queue_.HasRoom(model, images)) {
    return RetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            queue_.waiting(), " images are waiting already, of at most ",
            options_.max_waiting, "; ", images, " more do not fit")),
        RetryDelay(now));
  }
  const size_t before = queue_.waiting() + queue_.computing();
  const std::optional<double> rate = throughput_.Rate(now);
  // What finds nothing here may try, whatever its deadline.
  if (before == 0 || !rate.has_value()) return absl::OkStatus();
  // The images end with their batch, which others may fill up.
  const size_t until = queue_.CountUntilAnswered(model, images) +
                       std::min(before, options_.max_batch);
  const absl::Duration wait = absl::Seconds(static_cast<double>(until) / *rate);
  if (now + kDeadlineMargin * wait <= request.work.deadline) {
    return absl::OkStatus();
  }
  return RetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(
          before, " images come first: an answer would take about ",
          absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1))),
          ", too long for the call's deadline")),
      RetryDelay(now));
}

// About until all that waits is answered.
absl::Duration Batcher::RetryDelay(absl::Time now) const {
  const std::optional<double> rate = throughput_.Rate(now);
  if (!rate.has_value()) return absl::Seconds(1);
  return absl::Seconds(
      std::clamp(static_cast<double>(queue_.waiting()) / *rate, 0.1, 10.0));
}

void Batcher::Shutdown(absl::Time until) {
  // Longer times overflow the clocks of the standard library.
  constexpr absl::Duration kLongest = absl::Hours(24 * 365);
  Finished finished;
  std::vector<BatchItem> left;
  {
    const MutexLock lock(mu_);
    closing_ = true;
    mu_.AwaitFor(
        std::clamp(until - options_.now(), absl::ZeroDuration(), kLongest),
        [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
          return queue_.waiting() == 0;
        });
    left = queue_.RemoveAll();
    for (BatchItem& item : left) {
      item.request->dropped = ShuttingDownError();
      End(item, finished);
    }
  }
  CallBack(std::move(finished));
  threads_.clear();
}

Batcher::Stats Batcher::stats() const {
  const MutexLock lock(mu_);
  Stats stats = counts_;
  stats.waiting = queue_.waiting();
  stats.computing = queue_.computing();
  return stats;
}

void Batcher::Preprocess() {
  YieldToCallers();
  while (true) {
    Finished finished;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return (queue_.CanDecode() && !queue_.HasLoneEncoded()) ||
               (closing_ && !queue_.HasEncoded());
      });
      if (!queue_.CanDecode()) return;
      DecodeNext(finished);
    }
    CallBack(std::move(finished));
  }
}

void Batcher::DecodeNext(Finished& finished) {
  BatchItem item = queue_.TakeEncoded();
  if (!item.request->IsWanted(options_.now())) {
    queue_.EndDecode(item);
    return Drop(item, finished);
  }
  if (!spare_inputs_.empty()) {
    item.input = std::move(spare_inputs_.back());
    spare_inputs_.pop_back();
  }
  mu_.Unlock();
  absl::Status status = Decode(item);
  mu_.Lock();
  if (status.ok()) return queue_.AddReady(std::move(item));
  queue_.EndDecode(item);
  item.request->outcome.images[item.index] = std::move(status);
  End(item, finished);
}

absl::Status Batcher::Decode(BatchItem& item) const try {
  if (item.input == nullptr) {
    item.input = options_.allocate_input(options_.input_bytes);
  }
  const absl::Time start = options_.now();
  const absl::Status status =
      preprocess_(item.request->work.images[item.index],
                  absl::MakeSpan(item.input.get(), options_.input_bytes));
  item.ready = options_.now();
  item.preprocess = item.ready - start;
  return status;
} catch (const std::exception& e) {  // Of the allocator's.
  return absl::InternalError(e.what());
}

void Batcher::Compute() {
  YieldToCallers();
  absl::Time idle_since = options_.now();
  while (true) {
    BatchQueue::Batch batch;
    Finished finished;
    int threads = 1;
    {
      const MutexLock lock(mu_);
      if (!AwaitWork(idle_since)) return;
      if (queue_.HasLoneEncoded()) DecodeNext(finished);
      batch = queue_.TakeBatch(options_.now(), idle_since);
      threads = ThreadsOf(batch.items.size());
      for (BatchItem& item : batch.dropped) Drop(item, finished);
    }
    CallBack(std::move(finished));
    if (batch.items.empty()) continue;
    Run(std::move(batch.items), threads);
    idle_since = options_.now();
  }
}

bool Batcher::AwaitWork(absl::Time idle_since) {
  while (!queue_.HasLoneEncoded()) {
    const absl::Time start = queue_.NextStart(idle_since);
    const absl::Duration left = start - options_.now();
    if (left <= absl::ZeroDuration()) return true;
    if (closing_ && queue_.waiting() == 0) return false;
    const auto changed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return queue_.NextStart(idle_since) < start || queue_.HasLoneEncoded() ||
             (closing_ && queue_.waiting() == 0);
    };
    if (start == absl::InfiniteFuture()) {
      mu_.Await(changed);
    } else {
      mu_.AwaitFor(left, changed);
    }
  }
  return true;
}

// One, until there are fewer images in here than workers: then each is computed
// alone.
int Batcher::ThreadsOf(size_t batch) const {
  if (batch != 1) return 1;
  const auto all = static_cast<int>(queue_.waiting() + queue_.computing());
  return std::clamp(options_.workers / all, 1, kMostThreads);
}

void Batcher::Run(std::vector<BatchItem> batch, int threads) {
  const Servable& servable = *batch[0].model();
  std::vector<const uint8_t*> inputs;
  inputs.reserve(batch.size());
  for (const BatchItem& item : batch) inputs.push_back(item.input.get());
  const absl::Time start = options_.now();
  absl::StatusOr<std::vector<Probabilities>> outputs =
      Forward(servable, inputs, threads);
  const absl::Time end = options_.now();
  if (options_.on_batch) options_.on_batch(servable.model, batch.size());

  Finished finished;
  {
    const MutexLock lock(mu_);
    queue_.EndBatch(batch.size());
    throughput_.Add(batch.size(), queue_.waiting() > 0, end);
    for (size_t i = 0; i < batch.size(); ++i) {
      const PendingClassify& request = *batch[i].request;
      ClassifyOutcome& outcome = batch[i].request->outcome;
      auto& answer = outcome.images[batch[i].index];
      if (outputs.ok()) {
        answer = std::move((*outputs)[i]);
      } else {
        answer = outputs.status();
      }
      outcome.queue = std::max(outcome.queue,
                               start - request.submitted - batch[i].preprocess);
      outcome.compute = std::max(outcome.compute, end - start);
      outcome.batch_size =
          std::max(outcome.batch_size, static_cast<int>(batch.size()));
      End(batch[i], finished);
    }
  }
  CallBack(std::move(finished));
}

void Batcher::End(BatchItem& item, Finished& finished) {
  if (item.input != nullptr) spare_inputs_.push_back(std::move(item.input));
  PendingClassify& request = *item.request;
  request.outcome.preprocess =
      std::max(request.outcome.preprocess, item.preprocess);
  if (--request.unanswered == 0) finished.push_back(item.request);
}

void Batcher::Drop(BatchItem& item, Finished& finished) {
  CountFailed(item.request->dropped, 1);
  End(item, finished);
}

void Batcher::CountFailed(const absl::Status& status, size_t images) {
  if (absl::IsDeadlineExceeded(status)) counts_.expired += images;
  if (absl::IsCancelled(status)) counts_.cancelled += images;
  if (absl::IsResourceExhausted(status)) counts_.refused += images;
}

void Batcher::CallBack(Finished finished) {
  for (const auto& request : finished) {
    if (request->dropped.ok()) {
      request->done(std::move(request->outcome));
    } else {
      request->done(request->dropped);
    }
  }
}

}  // namespace finetune
