#include "server/jobs/job_store.h"

#include <vector>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::StatusIs;

v1::FineTuneJob Job(const std::string& id) {
  v1::FineTuneJob job;
  job.set_job_id(id);
  job.set_state(v1::JOB_STATE_QUEUED);
  return job;
}

void SetState(JobStore& store, const std::string& id, v1::JobState state) {
  store.Update(id, [&](v1::FineTuneJob& job) { job.set_state(state); });
}

// Records the sequences it is told of.
class Recorder {
 public:
  JobStore::WatchFn Fn() {
    return [this](const JobStore::Snapshot& latest) {
      sequences_.push_back(latest->sequence());
    };
  }
  const std::vector<uint64_t>& sequences() const { return sequences_; }

 private:
  std::vector<uint64_t> sequences_;
};

TEST(JobStoreTest, UnknownJobIsNotFound) {
  JobStore store;
  EXPECT_THAT(store.Get("x"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store.Watch("x", 0, nullptr),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(JobStoreTest, WatcherHearsOfThePresentStateAndEveryChange) {
  JobStore store;
  store.Add(Job("a"));
  Recorder recorder;
  ASSERT_TRUE(store.Watch("a", 0, recorder.Fn()).ok());
  SetState(store, "a", v1::JOB_STATE_RUNNING);
  SetState(store, "a", v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(recorder.sequences(), ElementsAre(1, 2, 3));
}

TEST(JobStoreTest, WatcherWhoIsUpToDateHearsOnlyWhatIsNew) {
  JobStore store;
  store.Add(Job("a"));
  SetState(store, "a", v1::JOB_STATE_RUNNING);
  Recorder recorder;
  ASSERT_TRUE(store.Watch("a", 2, recorder.Fn()).ok());
  EXPECT_TRUE(recorder.sequences().empty());
  SetState(store, "a", v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(recorder.sequences(), ElementsAre(3));
}

TEST(JobStoreTest, EndedJobIsToldToWatchersAtOnce) {
  JobStore store;
  store.Add(Job("a"));
  SetState(store, "a", v1::JOB_STATE_FAILED);
  Recorder recorder;
  ASSERT_TRUE(store.Watch("a", 2, recorder.Fn()).ok());
  EXPECT_THAT(recorder.sequences(), ElementsAre(2));
}

TEST(JobStoreTest, NothingIsToldAfterUnwatch) {
  JobStore store;
  store.Add(Job("a"));
  Recorder recorder;
  const auto watch = store.Watch("a", 1, recorder.Fn());
  store.Unwatch("a", *watch);
  SetState(store, "a", v1::JOB_STATE_RUNNING);
  EXPECT_TRUE(recorder.sequences().empty());
}

TEST(JobStoreTest, OldestEndedJobIsForgottenFirst) {
  JobStore store(/*max_jobs=*/2);
  store.Add(Job("a"));
  store.Add(Job("b"));
  SetState(store, "b", v1::JOB_STATE_SUCCEEDED);
  store.Add(Job("c"));
  EXPECT_TRUE(store.Get("a").ok());
  EXPECT_THAT(store.Get("b"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(store.Get("c").ok());
}

}  // namespace
}  // namespace finetune
