#include "server/jobs/job_store.h"

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/testing/faulty_disk.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

v1::FineTuneJob Job(const std::string& id) {
  v1::FineTuneJob job;
  job.set_job_id(id);
  job.set_state(v1::JOB_STATE_QUEUED);
  return job;
}

JobStore::ChangeFn SetState(v1::JobState state) {
  return [state](v1::FineTuneJob& job) {
    job.set_state(state);
    return absl::OkStatus();
  };
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

class JobStoreTest : public ::testing::Test {
 protected:
  JobStoreTest() { Restart(); }

  // As after a kill: nothing is said to the store before.
  void Restart() {
    store_.reset();
    database_.reset();
    auto database = Database::Open(dir_.path() / "db");
    ASSERT_THAT(database, IsOk());
    database_ = *std::move(database);
    auto store = JobStore::Open(*database_);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }

  void Add(const std::string& id) {
    ASSERT_THAT(store_->Add(Job(id), {.dataset_dir = "/photos"}), IsOk());
  }
  void Commit(const std::string& id, v1::JobState state) {
    ASSERT_THAT(store_->Commit(id, SetState(state)), IsOk());
  }
  uint64_t SequenceOf(const std::string& id) {
    Recorder recorder;
    const auto watch = store_->Watch(id, 0, recorder.Fn());
    EXPECT_THAT(watch, IsOk());
    store_->Unwatch(id, *watch);
    return recorder.sequences().at(0);
  }
  std::vector<std::string> Ids(const JobPage& page) {
    std::vector<std::string> ids;
    for (const auto& job : page.jobs) ids.push_back(job.job_id());
    return ids;
  }

  const TempDir dir_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobStoreTest, UnknownJobIsNotFound) {
  EXPECT_THAT(store_->Get("x"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Watch("x", 0, nullptr),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Commit("x", SetState(v1::JOB_STATE_RUNNING)),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(JobStoreTest, CountsJobsOfEveryState) {
  for (const char* id : {"a", "b", "c", "d"}) Add(id);
  Commit("a", v1::JOB_STATE_FAILED);
  Commit("b", v1::JOB_STATE_FAILED);
  ASSERT_THAT(store_->Report("c", SetState(v1::JOB_STATE_RUNNING)), IsOk());
  const std::map<v1::JobState, int64_t> expected = {{v1::JOB_STATE_QUEUED, 1},
                                                    {v1::JOB_STATE_RUNNING, 1},
                                                    {v1::JOB_STATE_FAILED, 2}};
  EXPECT_EQ(store_->CountByState(), expected);
}

TEST_F(JobStoreTest, WatcherHearsOfThePresentStateAndEveryChange) {
  Add("a");
  Recorder recorder;
  ASSERT_THAT(store_->Watch("a", 0, recorder.Fn()), IsOk());
  ASSERT_THAT(store_->Report("a", SetState(v1::JOB_STATE_RUNNING)), IsOk());
  Commit("a", v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(recorder.sequences(), ElementsAre(1, 2, 3));
}

TEST_F(JobStoreTest, WatcherWhoIsUpToDateHearsOnlyWhatIsNew) {
  Add("a");
  Commit("a", v1::JOB_STATE_RUNNING);
  Recorder recorder;
  ASSERT_THAT(store_->Watch("a", 2, recorder.Fn()), IsOk());
  EXPECT_TRUE(recorder.sequences().empty());
  Commit("a", v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(recorder.sequences(), ElementsAre(3));
}

TEST_F(JobStoreTest, EndedJobIsToldToWatchersAtOnceAlsoAfterARestart) {
  Add("a");
  Commit("a", v1::JOB_STATE_FAILED);
  for (int i = 0; i < 2; ++i) {
    Recorder recorder;
    ASSERT_THAT(store_->Watch("a", 2, recorder.Fn()), IsOk());
    EXPECT_THAT(recorder.sequences(), ElementsAre(2));
    Restart();
  }
}

TEST_F(JobStoreTest, NothingIsToldAfterUnwatch) {
  Add("a");
  Recorder recorder;
  const auto watch = store_->Watch("a", 1, recorder.Fn());
  store_->Unwatch("a", *watch);
  Commit("a", v1::JOB_STATE_RUNNING);
  EXPECT_TRUE(recorder.sequences().empty());
}

TEST_F(JobStoreTest, WatchesAreToldOfTheEndAndNoneBeginAfterIt) {
  Add("a");
  int ends = 0;
  ASSERT_THAT(store_->Watch("a", 1,
                            [&](const JobStore::Snapshot& latest) {
                              ends += latest == nullptr;
                            }),
              IsOk());
  store_->EndWatches();
  store_->EndWatches();
  EXPECT_EQ(ends, 1);
  EXPECT_THAT(store_->Watch("a", 1, nullptr),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(JobStoreTest, WhatWasCommittedIsThereAfterARestart) {
  Add("a");
  ASSERT_THAT(
      store_->Commit("a",
                     [](v1::FineTuneJob& job) {
                       job.set_state(v1::JOB_STATE_RUNNING);
                       job.mutable_progress()->add_epochs()->set_epoch(1);
                       return absl::OkStatus();
                     }),
      IsOk());
  Restart();
  const auto job = store_->Get("a");
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job->progress().epochs_size(), 1);
  EXPECT_EQ(*store_->DatasetDirOf("a"), "/photos");
}

TEST_F(JobStoreTest, SequencesNeverGoBackAlsoThoseOfReportsBeforeACrash) {
  Add("a");
  for (int i = 0; i < 2500; ++i) {
    ASSERT_THAT(store_->Report("a", SetState(v1::JOB_STATE_RUNNING)), IsOk());
  }
  const uint64_t before = SequenceOf("a");
  Restart();
  EXPECT_GE(SequenceOf("a"), before);
  ASSERT_THAT(store_->Report("a", SetState(v1::JOB_STATE_RUNNING)), IsOk());
  EXPECT_GT(SequenceOf("a"), before);
}

TEST_F(JobStoreTest, RefusedChangeLeavesTheJobAsItWas) {
  Add("a");
  EXPECT_THAT(store_->Commit("a",
                             [](v1::FineTuneJob& job) {
                               job.set_state(v1::JOB_STATE_FAILED);
                               return absl::AbortedError("no");
                             }),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(store_->Get("a")->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(SequenceOf("a"), 1u);
}

TEST_F(JobStoreTest, JointChangeHappensWithTheJobsOrNotAtAll) {
  Add("a");
  const auto insert = [](Transaction& transaction) {
    return transaction.Run(
        "INSERT INTO models (name, version, record) VALUES ('m', 1, '')");
  };
  const auto models = [this] {
    int64_t count = 0;
    EXPECT_THAT(
        database_->Query("SELECT COUNT(*) FROM models", {},
                         [&](const Row& row) { count = row.Integer(0); }),
        IsOk());
    return count;
  };
  bool applied = false;
  EXPECT_FALSE(store_
                   ->Commit("a", SetState(v1::JOB_STATE_SUCCEEDED),
                            {.write =
                                 [&](Transaction& transaction) {
                                   EXPECT_THAT(insert(transaction), IsOk());
                                   return absl::InternalError("disk");
                                 },
                             .apply = [&] { applied = true; }})
                   .ok());
  EXPECT_FALSE(applied);
  EXPECT_EQ(models(), 0);
  EXPECT_EQ(store_->Get("a")->state(), v1::JOB_STATE_QUEUED);

  EXPECT_THAT(
      store_->Commit("a", SetState(v1::JOB_STATE_SUCCEEDED),
                     {.write = insert, .apply = [&] { applied = true; }}),
      IsOk());
  EXPECT_TRUE(applied);
  EXPECT_EQ(models(), 1);
}

TEST_F(JobStoreTest, EndThatTheDiskRefusedIsKeptAndWrittenWhenItIsWell) {
  Add("a");
  Commit("a", v1::JOB_STATE_RUNNING);
  testing::BreakDisk(dir_.path(), 0, ENOSPC);
  EXPECT_THAT(store_->Record("a", SetState(v1::JOB_STATE_FAILED)), IsOk());
  EXPECT_THAT(store_->Commit("a", SetState(v1::JOB_STATE_QUEUED)),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(store_->Get("a")->state(), v1::JOB_STATE_FAILED);
  EXPECT_TRUE(testing::RepairDisk());

  Add("b");
  Restart();
  EXPECT_EQ(store_->Get("a")->state(), v1::JOB_STATE_FAILED);
}

TEST_F(JobStoreTest, PageOfLargeJobsIsCutToWhatAMessageHolds) {
  for (const char* id : {"a", "b", "c"}) {
    v1::FineTuneJob job = Job(id);
    job.set_dataset(std::string(2 << 20, 'x'));
    ASSERT_THAT(store_->Add(job, {.dataset_dir = "/photos"}), IsOk());
  }
  const auto page = store_->List({}, 10, "");
  EXPECT_THAT(Ids(*page), ElementsAre("c"));
  EXPECT_THAT(Ids(*store_->List({}, 10, page->next_token)), ElementsAre("b"));
}

TEST_F(JobStoreTest, RequestIsKnownByItsIdAndItsContent) {
  const JobOrigin origin{
      .dataset_dir = "/photos", .request_id = "r1", .request_sha256 = "aa"};
  EXPECT_THAT(store_->FindRequest(origin),
              StatusIs(absl::StatusCode::kNotFound));
  ASSERT_THAT(store_->Add(Job("a"), origin), IsOk());
  Restart();
  EXPECT_EQ(store_->FindRequest(origin)->job_id(), "a");
  EXPECT_THAT(store_->Add(Job("b"), origin),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(store_->FindRequest({.request_id = "r1", .request_sha256 = "bb"}),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(JobStoreTest, JobOfADatasetThatIsGoneIsNotAdded) {
  EXPECT_THAT(store_->Add(Job("a"), {.dataset_dir = "/x", .dataset_id = "d"}),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Get("a"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(JobStoreTest, PagesHoldEveryJobOnceNewestFirst) {
  for (const char* id : {"a", "b", "c", "d", "e"}) Add(id);
  Commit("b", v1::JOB_STATE_FAILED);
  Commit("d", v1::JOB_STATE_RUNNING);

  const auto first = store_->List({}, 2, "");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Ids(*first), ElementsAre("e", "d"));
  const auto second = store_->List({}, 2, first->next_token);
  EXPECT_THAT(Ids(*second), ElementsAre("c", "b"));
  const auto third = store_->List({}, 2, second->next_token);
  EXPECT_THAT(Ids(*third), ElementsAre("a"));
  EXPECT_TRUE(third->next_token.empty());

  EXPECT_THAT(
      Ids(*store_->List({v1::JOB_STATE_FAILED, v1::JOB_STATE_RUNNING}, 10, "")),
      ElementsAre("d", "b"));
}

TEST_F(JobStoreTest, UnfinishedJobsKeepTheirOrderAndResumedOnesComeLast) {
  for (const char* id : {"a", "b", "c"}) Add(id);
  Commit("a", v1::JOB_STATE_FAILED);
  Commit("b", v1::JOB_STATE_RUNNING);
  Commit("a", v1::JOB_STATE_QUEUED);
  Restart();
  EXPECT_THAT(*store_->Unfinished(), ElementsAre("b", "c", "a"));
}

TEST_F(JobStoreTest, OldestEndedJobsAreForgotten) {
  for (const char* id : {"a", "b", "c", "d"}) Add(id);
  Commit("b", v1::JOB_STATE_SUCCEEDED);
  Commit("c", v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(*store_->Trim(3), ElementsAre("b"));
  EXPECT_THAT(store_->Get("b"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(*store_->Trim(1), ElementsAre("c"));
  EXPECT_THAT(store_->Get("a"), IsOk());
}

}  // namespace
}  // namespace finetune
