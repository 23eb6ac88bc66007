#include "server/jobs/scheduler.h"

#include <latch>
#include <stdexcept>
#include <vector>

#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

// Blocks until a job is in a terminal state, and returns it.
v1::FineTuneJob WaitForEnd(JobStore& store, const std::string& id) {
  Mutex mu;
  v1::FineTuneJob end;
  const auto watch = store.Watch(id, 0, [&](const JobStore::Snapshot& latest) {
    const MutexLock lock(mu);
    if (IsTerminal(latest->job().state())) end = latest->job();
  });
  EXPECT_THAT(watch, IsOk());
  {
    const MutexLock lock(mu);
    mu.Await([&] { return end.has_end_time(); });
  }
  store.Unwatch(id, *watch);
  return end;
}

// A training that runs until it is told to stop, and says when it began.
class Endless {
 public:
  TrainFn Fn() {
    return [this](const auto&, const auto&, const EventFn&,
                  const std::stop_token& stop) {
      began_.count_down();
      Mutex mu;
      const std::stop_callback wake(stop, [&] { const MutexLock lock(mu); });
      const MutexLock lock(mu);
      mu.Await([&] { return stop.stop_requested(); });
      return absl::CancelledError("stopped");
    };
  }
  void WaitUntilBegun() { began_.wait(); }

 private:
  std::latch began_{1};
};

absl::Status Succeed(const std::filesystem::path&, const trainer::TrainerSpec&,
                     const EventFn&, const std::stop_token&) {
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelRef> PublishAsOne(const v1::FineTuneJob& job,
                                          const std::filesystem::path&) {
  v1::ModelRef ref;
  ref.set_name(job.model_name());
  ref.set_version(1);
  return ref;
}

class SchedulerTest : public ::testing::Test {
 protected:
  Scheduler::Options Options() { return {.jobs_dir = dir_.path()}; }

  const TempDir dir_;
  JobStore store_;
};

TEST_F(SchedulerTest, JobPassesFromQueuedToSucceededWithItsModel) {
  Scheduler scheduler(
      Options(), store_,
      [](const auto&, const trainer::TrainerSpec& spec, const EventFn& on_event,
         const auto&) {
        trainer::TrainerEvent event;
        event.mutable_dataset_stats()->set_train_images(7);
        on_event(event);
        event.mutable_progress()->set_epoch(spec.hyper_parameters().epochs());
        on_event(event);
        return absl::OkStatus();
      },
      PublishAsOne);
  JobRequest request{.dataset = "pets", .model_name = "cats"};
  request.hyper_parameters.set_epochs(3);
  const auto queued = scheduler.Submit(request);
  ASSERT_THAT(queued, IsOk());
  EXPECT_EQ(queued->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(queued->queue_position(), 1);

  const v1::FineTuneJob end = WaitForEnd(store_, queued->job_id());
  EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(end.dataset(), "pets");
  EXPECT_EQ(end.dataset_stats().train_images(), 7);
  EXPECT_EQ(end.progress().epoch(), 3);
  EXPECT_EQ(end.model().name(), "cats");
  EXPECT_EQ(end.queue_position(), 0);
  EXPECT_TRUE(end.has_start_time());
}

TEST_F(SchedulerTest, JobsRunOneAtATimeInTheirOrder) {
  std::vector<std::string> order;  // Only the scheduler's thread writes it.
  Scheduler scheduler(
      Options(), store_,
      [&](const auto&, const trainer::TrainerSpec& spec, const auto&,
          const auto&) {
        order.push_back(spec.dataset_dir());
        return absl::OkStatus();
      },
      PublishAsOne);
  std::string last;
  for (const char* dir : {"a", "b", "c"}) {
    last = scheduler.Submit({.dataset_dir = dir})->job_id();
  }
  WaitForEnd(store_, last);
  EXPECT_THAT(order, ElementsAre("a", "b", "c"));
}

TEST_F(SchedulerTest, FailingTrainingFailsItsJobOnly) {
  Scheduler scheduler(
      Options(), store_,
      [](const auto&, const trainer::TrainerSpec& spec, const auto&,
         const auto&) -> absl::Status {
        if (spec.dataset_dir() == "throws") throw std::runtime_error("CUDA");
        if (spec.dataset_dir() == "fails") {
          return PreconditionError("DATASET", "x", "one class");
        }
        return absl::OkStatus();
      },
      PublishAsOne);
  const auto fails = scheduler.Submit({.dataset_dir = "fails"});
  const auto throws = scheduler.Submit({.dataset_dir = "throws"});
  const auto works = scheduler.Submit({.dataset_dir = "works"});

  EXPECT_EQ(WaitForEnd(store_, works->job_id()).state(),
            v1::JOB_STATE_SUCCEEDED);
  const v1::FineTuneJob failed = WaitForEnd(store_, fails->job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().message(), "one class");
  EXPECT_EQ(failed.error().details_size(), 1);
  EXPECT_EQ(WaitForEnd(store_, throws->job_id()).error().message(), "CUDA");
}

TEST_F(SchedulerTest, FailingPublishFailsTheJob) {
  Scheduler scheduler(Options(), store_, Succeed, [](const auto&, const auto&) {
    return absl::ResourceExhaustedError("disk full");
  });
  const auto job = scheduler.Submit({});
  EXPECT_EQ(WaitForEnd(store_, job->job_id()).error().message(), "disk full");
}

TEST_F(SchedulerTest, FullQueueRefusesWithRetryInfo) {
  Endless training;
  auto options = Options();
  options.max_waiting = 1;
  Scheduler scheduler(options, store_, training.Fn(), PublishAsOne);
  ASSERT_THAT(scheduler.Submit({}), IsOk());
  training.WaitUntilBegun();
  ASSERT_THAT(scheduler.Submit({}), IsOk());

  const auto refused = scheduler.Submit({});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(refused.status()
                  .GetPayload("type.googleapis.com/google.rpc.RetryInfo")
                  .has_value());
}

TEST_F(SchedulerTest, ShutdownStopsTheRunningJobAndFailsThoseWaiting) {
  Endless training;
  Scheduler scheduler(Options(), store_, training.Fn(), PublishAsOne);
  const auto running = scheduler.Submit({});
  training.WaitUntilBegun();
  const auto waiting = scheduler.Submit({});
  scheduler.Shutdown();

  for (const auto& job : {running, waiting}) {
    EXPECT_EQ(store_.Get(job->job_id())->state(), v1::JOB_STATE_FAILED);
  }
  EXPECT_THAT(scheduler.Submit({}), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace finetune
