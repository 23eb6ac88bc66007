#include "server/jobs/job_changes.h"

#include "absl/strings/str_cat.h"
#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::StatusIs;

trainer::TrainerEvent ProgressOf(double fraction, int epochs = 0) {
  trainer::TrainerEvent event;
  event.mutable_progress()->set_fraction_done(fraction);
  for (int i = 1; i <= epochs; ++i) {
    event.mutable_progress()->add_epochs()->set_epoch(i);
  }
  return event;
}

TEST(JobChangesTest, FractionDoneNeverFalls) {
  v1::FineTuneJob job;
  Apply(ProgressOf(0.5), job);
  Apply(ProgressOf(0.4), job);
  EXPECT_DOUBLE_EQ(job.progress().fraction_done(), 0.5);
}

TEST(JobChangesTest, EventsOfATrainerLeaveACancellingJobCancelling) {
  v1::FineTuneJob job;
  job.set_state(v1::JOB_STATE_CANCELLING);
  trainer::TrainerEvent event;
  event.mutable_dataset_stats();
  Apply(event, job);
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_THAT(Succeed({}, job), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(Begin(job), StatusIs(absl::StatusCode::kAborted));
  BecomeCancelled(job);
  EXPECT_THAT(Begin(job), StatusIs(absl::StatusCode::kAborted));
}

TEST(JobChangesTest, EpochsAndWarningsAreMilestonesAndStepsAreNot) {
  v1::FineTuneJob job;
  Apply(ProgressOf(0.5, 1), job);
  EXPECT_FALSE(IsMilestone(ProgressOf(0.6, 1), job));
  EXPECT_TRUE(IsMilestone(ProgressOf(0.6, 2), job));
  trainer::TrainerEvent warned = ProgressOf(0.6, 1);
  warned.mutable_progress()->add_warnings("overshoot");
  EXPECT_TRUE(IsMilestone(warned, job));
}

TEST(JobChangesTest, OldestEventsAreDroppedAboveAHundred) {
  v1::FineTuneJob job;
  for (int i = 0; i < 150; ++i) AddEvent(absl::StrCat(i), job);
  ASSERT_EQ(job.events_size(), 100);
  EXPECT_EQ(job.events(0).message(), "50");
  EXPECT_EQ(job.events(99).message(), "149");
}

TEST(JobChangesTest, ResumedJobStartsWithACleanRecord) {
  v1::FineTuneJob job;
  job.set_trainer_restarts(3);
  Fail(absl::InternalError("x"), job);
  ASSERT_THAT(Requeue(job), IsOk());
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_FALSE(job.has_error());
  EXPECT_FALSE(job.has_end_time());
  EXPECT_EQ(job.trainer_restarts(), 0);
}

}  // namespace
}  // namespace finetune
