#include "server/jobs/scheduler.h"

#include <latch>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/jobs/job_changes.h"
#include "server/jobs/testing/wait.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;
using testing::WaitForEnd;
using testing::WaitUntil;

// Trains until it is told to stop, leaving a checkpoint.
absl::Status Endless(const std::filesystem::path& job_dir,
                     const trainer::TrainerSpec&, const EventFn& on_event,
                     const std::stop_token& stop) {
  std::filesystem::create_directories(job_dir / "checkpoints/step-1");
  trainer::TrainerEvent event;
  event.mutable_dataset_stats();
  on_event(event);
  Mutex mu;
  const std::stop_callback wake(stop, [&] { const MutexLock lock(mu); });
  const MutexLock lock(mu);
  mu.Await([&] { return stop.stop_requested(); });
  return absl::CancelledError("stopped");
}

absl::Status Instant(const std::filesystem::path&, const trainer::TrainerSpec&,
                     const EventFn&, const std::stop_token&) {
  return absl::OkStatus();
}

absl::StatusOr<Publication> PublishAsOne(const v1::FineTuneJob& job,
                                         const std::filesystem::path&) {
  Publication publication;
  publication.model.set_name(job.model_name());
  publication.model.set_version(1);
  publication.discard = [] {};
  return publication;
}

JobRequest Request(const std::string& dataset_dir = "pets") {
  JobRequest request;
  request.job.set_model_name("cats");
  request.origin.dataset_dir = dataset_dir;
  return request;
}

class SchedulerTest : public ::testing::Test {
 protected:
  ~SchedulerTest() override { Stop(); }

  // A server's life begins; that of the one before has ended.
  Scheduler& Start(TrainFn train, PublishFn publish = PublishAsOne) {
    Stop();
    database_ = *Database::Open(dir_.path() / "db");
    store_ = *JobStore::Open(*database_);
    runner_ = std::make_unique<JobRunner>(dir_.path() / "jobs",
                                          trainer::TrainerSpec(), *store_,
                                          std::move(train), std::move(publish));
    scheduler_ = std::make_unique<Scheduler>(options_, *store_, *runner_);
    scheduler_->Start();
    return *scheduler_;
  }
  void Stop() {
    scheduler_.reset();
    runner_.reset();
    store_.reset();
    database_.reset();
  }
  std::string Submit(const std::string& dataset_dir = "pets") {
    const auto job = scheduler_->Submit(Request(dataset_dir));
    EXPECT_THAT(job, IsOk());
    return job->job_id();
  }
  std::string SubmitAndAwaitRunning() {
    const std::string id = Submit();
    WaitUntil(*store_, id, [](const v1::FineTuneJob& job) {
      return job.state() == v1::JOB_STATE_RUNNING;
    });
    return id;
  }

  const TempDir dir_;
  Scheduler::Options options_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<JobRunner> runner_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerTest, JobPassesFromQueuedToSucceededWithItsModel) {
  Start([](const auto&, const trainer::TrainerSpec& spec,
           const EventFn& on_event, const auto&) {
    trainer::TrainerEvent event;
    event.mutable_dataset_stats()->set_train_images(7);
    on_event(event);
    event.mutable_progress()->set_epoch(spec.hyper_parameters().epochs());
    on_event(event);
    return absl::OkStatus();
  });
  JobRequest request = Request();
  request.job.set_dataset("pets");
  request.job.mutable_hyper_parameters()->set_epochs(3);
  const auto queued = scheduler_->Submit(request);
  ASSERT_THAT(queued, IsOk());
  EXPECT_EQ(queued->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(queued->queue_position(), 1);

  const v1::FineTuneJob end = WaitForEnd(*store_, queued->job_id());
  EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(end.dataset(), "pets");
  EXPECT_EQ(end.dataset_stats().train_images(), 7);
  EXPECT_EQ(end.progress().epoch(), 3);
  EXPECT_EQ(end.model().name(), "cats");
  EXPECT_EQ(end.queue_position(), 0);
  EXPECT_TRUE(end.has_start_time());
}

TEST_F(SchedulerTest, JobsRunOneAtATimeInTheirOrder) {
  std::vector<std::string> order;  // Only the one worker writes it.
  Start([&](const auto&, const trainer::TrainerSpec& spec, const auto&,
            const auto&) {
    order.push_back(spec.dataset_dir());
    return absl::OkStatus();
  });
  std::string last;
  for (const char* dir : {"a", "b", "c"}) last = Submit(dir);
  WaitForEnd(*store_, last);
  EXPECT_THAT(order, ElementsAre("a", "b", "c"));
}

TEST_F(SchedulerTest, AsManyJobsRunAtOnceAsAreAllowed) {
  options_.max_running = 2;
  Start(Endless);
  SubmitAndAwaitRunning();
  SubmitAndAwaitRunning();
}

TEST_F(SchedulerTest, FailingTrainingFailsItsJobOnly) {
  Start([](const auto&, const trainer::TrainerSpec& spec, const auto&,
           const auto&) -> absl::Status {
    if (spec.dataset_dir() == "throws") throw std::runtime_error("CUDA");
    if (spec.dataset_dir() == "fails") {
      return PreconditionError("DATASET", "x", "one class");
    }
    return absl::OkStatus();
  });
  const std::string fails = Submit("fails"), throws = Submit("throws");
  EXPECT_EQ(WaitForEnd(*store_, Submit("works")).state(),
            v1::JOB_STATE_SUCCEEDED);
  const v1::FineTuneJob failed = WaitForEnd(*store_, fails);
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().message(), "one class");
  EXPECT_EQ(failed.error().details_size(), 1);
  EXPECT_EQ(WaitForEnd(*store_, throws).error().message(), "CUDA");
}

TEST_F(SchedulerTest, TrainerThatDiesIsStartedAgainThreeTimes) {
  int starts = 0;
  Start([&](const auto&, const auto&, const auto&, const auto&) {
    ++starts;
    return absl::AbortedError("the trainer was killed by signal 11");
  });
  const v1::FineTuneJob end = WaitForEnd(*store_, Submit());
  EXPECT_EQ(end.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(end.error().code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_THAT(end.error().message(), HasSubstr("signal 11"));
  EXPECT_EQ(end.trainer_restarts(), 3);
  EXPECT_EQ(end.events_size(), 3);
  EXPECT_THAT(end.events(0).message(), HasSubstr("signal 11"));
  EXPECT_EQ(starts, 4);
}

TEST_F(SchedulerTest, TrainerThatCannotBeStartedForNowIsNoFaultOfTheJob) {
  int starts = 0;
  Start([&](const auto&, const auto&, const auto&, const auto&) {
    return ++starts < 3 ? absl::UnavailableError("Too many open files")
                        : absl::OkStatus();
  });
  const v1::FineTuneJob end = WaitForEnd(*store_, Submit());
  EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(end.trainer_restarts(), 0);
  ASSERT_EQ(end.events_size(), 1);
  EXPECT_THAT(end.events(0).message(), HasSubstr("Too many open files"));
}

TEST_F(SchedulerTest, JobThatWaitsForATrainerCanBeCancelled) {
  Start([&](const auto&, const auto&, const auto&, const auto&) {
    return absl::UnavailableError("no processes left");
  });
  const std::string job = Submit();
  WaitUntil(*store_, job,
            [](const auto& record) { return record.events_size() > 0; });
  EXPECT_THAT(scheduler_->Cancel(job), IsOk());
  EXPECT_EQ(WaitForEnd(*store_, job).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(SchedulerTest, TrainerThatDiesOnceSucceedsInTheEnd) {
  int starts = 0;
  Start([&](const auto&, const auto&, const auto&, const auto&) {
    return ++starts == 1 ? absl::AbortedError("killed") : absl::OkStatus();
  });
  const v1::FineTuneJob end = WaitForEnd(*store_, Submit());
  EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(end.trainer_restarts(), 1);
}

TEST_F(SchedulerTest, FailingPublishFailsTheJob) {
  Start(Instant, [](const auto&, const auto&) {
    return absl::ResourceExhaustedError("disk full");
  });
  EXPECT_EQ(WaitForEnd(*store_, Submit()).error().message(), "disk full");
}

TEST_F(SchedulerTest, ModelWhoseRowCannotBeWrittenIsDiscardedAndItsJobFails) {
  bool discarded = false;
  Start(Instant, [&](const auto&, const auto&) {
    Publication publication;
    publication.joint.write = [](Transaction&) {
      return absl::ResourceExhaustedError("disk full");
    };
    publication.discard = [&] { discarded = true; };
    return publication;
  });
  const v1::FineTuneJob end = WaitForEnd(*store_, Submit());
  EXPECT_EQ(end.state(), v1::JOB_STATE_FAILED);
  EXPECT_FALSE(end.has_model());
  EXPECT_TRUE(discarded);
}

TEST_F(SchedulerTest, FullQueueRefusesWithRetryInfo) {
  options_.max_waiting = 1;
  Start(Endless);
  SubmitAndAwaitRunning();
  Submit();
  const auto refused = scheduler_->Submit(Request());
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(refused.status()
                  .GetPayload("type.googleapis.com/google.rpc.RetryInfo")
                  .has_value());
}

TEST_F(SchedulerTest, RunningJobIsNotResumedHoweverFullTheQueueIs) {
  options_.max_waiting = 1;
  Start(Endless);
  const std::string running = SubmitAndAwaitRunning();
  Submit();
  EXPECT_THAT(scheduler_->Resume(running),
              StatusIs(absl::StatusCode::kAborted));
}

TEST_F(SchedulerTest, RepeatedRequestGetsTheSameJobAlsoWhenTheQueueIsFull) {
  options_.max_waiting = 1;
  Start(Endless);
  SubmitAndAwaitRunning();
  JobRequest request = Request();
  request.origin.request_id = "once";
  const auto first = scheduler_->Submit(request);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(scheduler_->Submit(request)->job_id(), first->job_id());
}

TEST_F(SchedulerTest, NextServerTakesUpTheRunningJobAndThenTheQueue) {
  Start(Endless);
  const std::string running = SubmitAndAwaitRunning();
  const std::string second = Submit("second"), third = Submit("third");

  std::vector<std::string> order;
  Start([&](const auto&, const trainer::TrainerSpec& spec, const auto&,
            const auto&) {
    order.push_back(spec.job_id());
    return absl::OkStatus();
  });
  for (const std::string& id : {running, second, third}) {
    EXPECT_EQ(WaitForEnd(*store_, id).state(), v1::JOB_STATE_SUCCEEDED);
  }
  EXPECT_THAT(order, ElementsAre(running, second, third));
  EXPECT_THAT(store_->Get(running)->events(0).message(),
              HasSubstr("started again"));
}

TEST_F(SchedulerTest, ShutdownRefusesNewJobs) {
  Start(Endless);
  scheduler_->Shutdown();
  EXPECT_THAT(scheduler_->Submit(Request()),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(SchedulerTest, QueuedJobIsCancelledAtOnceAndTheOthersMoveUp) {
  Start(Endless);
  SubmitAndAwaitRunning();
  const std::string second = Submit(), third = Submit();
  EXPECT_EQ(scheduler_->Cancel(second)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(store_->Get(third)->queue_position(), 1);
  EXPECT_THAT(scheduler_->Resume(second),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SchedulerTest, RunningJobIsStoppedAndCancelledOnce) {
  Start(Endless);
  const std::string id = SubmitAndAwaitRunning();
  EXPECT_EQ(scheduler_->Cancel(id)->state(), v1::JOB_STATE_CANCELLING);
  const v1::FineTuneJob end = WaitForEnd(*store_, id);
  EXPECT_EQ(end.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(scheduler_->Cancel(id)->SerializeAsString(),
            end.SerializeAsString());
  EXPECT_THAT(scheduler_->Cancel("none"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(SchedulerTest, CancelDuringPublicationLeavesNoModel) {
  bool discarded = false;
  Start(Instant, [&](const v1::FineTuneJob& job, const auto&) {
    EXPECT_EQ(scheduler_->Cancel(job.job_id())->state(),
              v1::JOB_STATE_CANCELLING);
    Publication publication;
    publication.joint.apply = [] { FAIL() << "the model was published"; };
    publication.discard = [&] { discarded = true; };
    return publication;
  });
  const v1::FineTuneJob end = WaitForEnd(*store_, Submit());
  EXPECT_EQ(end.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(discarded);
}

TEST_F(SchedulerTest, JobThatWasBeingCancelledInACrashIsCancelledAfterIt) {
  Start(Endless);
  const std::string id = SubmitAndAwaitRunning();
  scheduler_->Shutdown();  // The trainer is gone, the record says RUNNING.
  ASSERT_THAT(store_->Commit(id,
                             [](v1::FineTuneJob& job) {
                               AskToCancel(job);
                               return absl::OkStatus();
                             }),
              IsOk());
  Start(Instant);
  EXPECT_EQ(store_->Get(id)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(SchedulerTest, CancelledJobIsResumedFromItsCheckpoint) {
  Start(Endless);
  const std::string id = SubmitAndAwaitRunning();
  EXPECT_THAT(scheduler_->Resume(id), StatusIs(absl::StatusCode::kAborted));
  ASSERT_THAT(scheduler_->Cancel(id), IsOk());
  WaitForEnd(*store_, id);

  Start(Instant);
  EXPECT_EQ(scheduler_->Resume(id)->state(), v1::JOB_STATE_QUEUED);
  const v1::FineTuneJob end = WaitUntil(
      *store_, id, [](const v1::FineTuneJob& job) { return job.has_model(); });
  EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(scheduler_->Resume(id),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SchedulerTest, JobThatRunsTooLongFailsAndCanBeResumed) {
  Start(Endless);
  JobRequest request = Request();
  *request.job.mutable_max_run_duration() = ToProto(absl::Milliseconds(1));
  const std::string id = scheduler_->Submit(request)->job_id();
  const v1::FineTuneJob end = WaitForEnd(*store_, id);
  EXPECT_EQ(end.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(end.error().code(),
            static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(scheduler_->Resume(id), IsOk());
}

TEST_F(SchedulerTest, ValidationReturnsWhatItFoundAndLeavesNothing) {
  Start([](const auto&, const trainer::TrainerSpec& spec,
           const EventFn& on_event, const auto&) {
    EXPECT_TRUE(spec.validate_only());
    trainer::TrainerEvent event;
    event.mutable_dataset_stats()->set_train_images(7);
    on_event(event);
    return absl::OkStatus();
  });
  const auto job = scheduler_->Validate(Request(), {});
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->dataset_stats().train_images(), 7);
  EXPECT_TRUE(store_->List({}, 10, "")->jobs.empty());
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path() / "jobs"));
}

TEST_F(SchedulerTest, FoldersOfJobsThatAreNotKnownAreRemoved) {
  dir_.Write("jobs/ft-stranger/checkpoints/step-1/x", "");
  Start(Instant);
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "jobs/ft-stranger"));
  EXPECT_TRUE(std::filesystem::exists(
      dir_.path() / "lost+found/jobs-ft-stranger/checkpoints/step-1/x"));
}

TEST_F(SchedulerTest, OldestEndedJobIsForgottenWithItsFolder) {
  options_.max_jobs = 1;
  Start(Instant);
  const std::string first = Submit();
  WaitForEnd(*store_, first);
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "jobs" / first));
  Submit();
  EXPECT_THAT(store_->Get(first), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "jobs" / first));
}

}  // namespace
}  // namespace finetune
