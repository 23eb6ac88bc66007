#include "server/datasets/dataset_store.h"

#include <future>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/job.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "server/datasets/testing/test_archive.h"

namespace finetune {
namespace {

using testing::ArchiveFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::MakeArchive;
using testing::SmallDataset;
using testing::StatusIs;
using testing::TempDir;

template <typename Detail>
bool HasDetail(const absl::Status& status) {
  const google::rpc::Status wire = ToRpcStatus(status);
  return wire.details_size() == 1 && wire.details(0).Is<Detail>();
}

// One upload, driven by hand; waits where the real one is called back.
class Driver {
 public:
  Driver(DatasetStore& store, const std::string& name,
         const std::string& sha256) {
    upload_ =
        *store.BeginUpload(name, sha256,
                           {.on_room = [this] { room_.release(); },
                            .on_end =
                                [this](absl::StatusOr<v1::Dataset> dataset) {
                                  end_.set_value(std::move(dataset));
                                  room_.release();
                                }});
  }

  void Add(const std::string& bytes, size_t piece) {
    for (size_t at = 0; at < bytes.size(); at += piece) {
      if (!upload_->Add(bytes.substr(at, piece))) room_.acquire();
    }
  }
  absl::StatusOr<v1::Dataset> End() {
    absl::StatusOr<v1::Dataset> end = end_.get_future().get();
    upload_.reset();
    return end;
  }
  Upload& upload() { return *upload_; }

 private:
  std::promise<absl::StatusOr<v1::Dataset>> end_;
  std::counting_semaphore<1000> room_{0};
  std::unique_ptr<Upload> upload_;
};

class DatasetStoreTest : public ::testing::Test {
 protected:
  DatasetStoreTest() { Open(); }

  void Open() {
    store_.reset();
    auto store = DatasetStore::Open(options_, *database_);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }

  absl::StatusOr<v1::Dataset> Upload(const std::string& bytes,
                                     const std::string& name = "pets",
                                     std::string sha256 = "") {
    if (sha256.empty()) sha256 = Sha256Hex(bytes);
    Driver driver(*store_, name, sha256);
    driver.Add(bytes, 1000);
    driver.upload().Finish();
    return driver.End();
  }

  void AddJob(const std::string& id, v1::JobState state,
              const std::string& dataset) {
    ASSERT_THAT(database_->Commit([&](Transaction& transaction) {
      return transaction.Run(
          "INSERT INTO jobs (job_id, state, sequence, ticket, dataset_id, "
          "dataset_dir, record) VALUES (?, ?, 0, 0, ?, '', x'')",
          {id, int64_t{state}, dataset});
    }),
                IsOk());
  }

  std::vector<std::string> Names() const {
    return testing::NamesIn(options_.dir);
  }
  // Once the sweeper has done its work.
  void AwaitNames(const std::vector<std::string>& expected) const {
    while (Names() != expected) std::this_thread::yield();
  }

  const TempDir dir_;
  DatasetStore::Options options_{.dir = dir_.path() / "datasets"};
  const std::unique_ptr<Database> database_ =
      *Database::Open(dir_.path() / "state.db");
  std::unique_ptr<DatasetStore> store_;
};

TEST_F(DatasetStoreTest, UploadBecomesADatasetThatSurvivesAReopening) {
  const std::string bytes = MakeArchive(SmallDataset());
  const auto dataset = Upload(bytes);
  ASSERT_THAT(dataset, IsOk());
  EXPECT_EQ(dataset->id(), Sha256Hex(bytes));
  EXPECT_EQ(dataset->name(), "pets");
  EXPECT_EQ(dataset->files(), 3);
  EXPECT_EQ(dataset->bytes(), 17);
  Open();
  ASSERT_THAT(store_->Find(dataset->id()), IsOk());
  EXPECT_EQ(*ReadFile(store_->PathOf(dataset->id()) / "test/bee/2.jpg", 100),
            "bee two");
  EXPECT_THAT(Names(), ElementsAre(dataset->id()));
}

TEST_F(DatasetStoreTest, OnlyFolderAtTheTopIsTheDataset) {
  const auto dataset =
      Upload(MakeArchive(SmallDataset("my pets/"), ArchiveFormat::kZip));
  ASSERT_THAT(dataset, IsOk());
  EXPECT_TRUE(std::filesystem::exists(store_->PathOf(dataset->id()) / "train"));
}

TEST_F(DatasetStoreTest, BytesAfterTheArchivesEndAreHashed) {
  const std::string bytes =
      MakeArchive(SmallDataset()) + std::string(100'000, 'z');
  ASSERT_THAT(Upload(bytes), IsOk());
}

TEST_F(DatasetStoreTest, WrongChecksumLeavesNothing) {
  const absl::Status status =
      Upload(MakeArchive(SmallDataset()), "pets", std::string(64, 'a'))
          .status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(status.message(), HasSubstr("SHA-256"));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, ArchiveWithoutADatasetIsRefusedByItsName) {
  const absl::Status status =
      Upload(MakeArchive({{"train/bee/1.jpg", "x"}, {"test/bee/1.jpg", "x"}}))
          .status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(HasDetail<google::rpc::PreconditionFailure>(status));
  EXPECT_EQ(status.message(),
            "data set pets: train/ has 1 class folder(s); at least 2 are "
            "needed");
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, BrokenArchiveEndsTheUploadBeforeItsLastChunk) {
  Driver driver(*store_, "pets", std::string(64, 'a'));
  EXPECT_TRUE(driver.upload().Add(std::string(100'000, 'x')));
  EXPECT_THAT(driver.End(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, CancelledUploadLeavesNothing) {
  Driver driver(*store_, "pets", std::string(64, 'a'));
  driver.upload().Add(MakeArchive(SmallDataset()));
  driver.upload().Cancel(absl::CancelledError("the caller went away"));
  EXPECT_THAT(driver.End(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, DestroyedUploadLeavesNothing) {
  { const Driver driver(*store_, "pets", std::string(64, 'a')); }
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, StalledUploadIsGivenUp) {
  options_.idle_timeout = absl::Milliseconds(1);
  Open();
  Driver driver(*store_, "pets", std::string(64, 'a'));
  EXPECT_THAT(driver.End(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetStoreTest, ReaderIsHeldBackWhereUnpackingIsSlow) {
  // Nothing is unpacked before the first callback has returned.
  std::latch go{1};
  std::promise<absl::Status> end;
  const auto upload = *store_->BeginUpload(
      "pets", std::string(64, 'a'),
      {.on_room = [&] { go.wait(); },
       .on_end =
           [&](const auto& dataset) { end.set_value(dataset.status()); }});
  int added = 1;
  while (upload->Add("x")) ++added;  // Until the queue is full.
  // The thread may have taken some before that, but then it stands still.
  EXPECT_GE(added, 4);
  go.count_down();
  upload->Cancel(absl::CancelledError("enough"));
  EXPECT_FALSE(end.get_future().get().ok());
}

TEST_F(DatasetStoreTest, SameArchiveTwiceAtOnceIsOneDataset) {
  const std::string bytes = MakeArchive(SmallDataset());
  Driver first(*store_, "first", Sha256Hex(bytes));
  Driver second(*store_, "second", Sha256Hex(bytes));
  first.Add(bytes, 1000);
  second.Add(bytes, 1000);
  second.upload().Finish();
  EXPECT_EQ(second.End()->name(), "second");
  first.upload().Finish();
  EXPECT_EQ(first.End()->name(), "second");
  EXPECT_THAT(Names(), ElementsAre(Sha256Hex(bytes)));
}

TEST_F(DatasetStoreTest, ManyUploadsOfOneArchiveAllSucceed) {
  const std::string bytes = MakeArchive(SmallDataset());
  std::vector<std::future<bool>> done;
  for (int i = 0; i < 8; ++i) {
    done.push_back(
        std::async(std::launch::async, [&] { return Upload(bytes).ok(); }));
  }
  for (auto& one : done) EXPECT_TRUE(one.get());
  EXPECT_THAT(Names(), ElementsAre(Sha256Hex(bytes)));
}

TEST_F(DatasetStoreTest, LeftoversOfACrashAreRemovedAtOpen) {
  const auto kept = Upload(MakeArchive(SmallDataset()));
  ASSERT_THAT(kept, IsOk());
  dir_.Write("datasets/.incoming-abc/upload/train/bee/1.jpg", "x");
  dir_.Write("datasets/.trash-abc/data/train/bee/1.jpg", "x");
  dir_.Write("datasets/" + std::string(64, 'b') + "/train/bee/1.jpg", "x");
  Open();
  AwaitNames({kept->id()});
}

TEST_F(DatasetStoreTest, StoreHoldsNoMoreThanItsLimit) {
  options_.max_total_bytes = 20;
  Open();
  const std::string bytes = MakeArchive(SmallDataset());
  // Also the archive itself may not have more bytes than are left.
  EXPECT_THAT(Upload(bytes), StatusIs(absl::StatusCode::kResourceExhausted));
  options_.max_total_bytes = 100'000;
  options_.max_datasets = 1;
  Open();
  ASSERT_THAT(Upload(bytes), IsOk());
  Open();  // What is there counts after a restart, too.
  const absl::Status status =
      store_->BeginUpload("more", std::string(64, 'c'), {}).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(status.message(), HasSubstr("delete one first"));
  ASSERT_THAT(store_->Delete(Sha256Hex(bytes)), IsOk());
  EXPECT_THAT(Upload(bytes), IsOk());
}

TEST_F(DatasetStoreTest, PagesGoFromTheNewestToTheOldest) {
  for (const char* name : {"a", "b", "c"}) {
    auto entries = SmallDataset();
    entries.push_back({name, ""});
    ASSERT_THAT(Upload(MakeArchive(entries), name), IsOk());
  }
  auto page = store_->List(2, "");
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->datasets.size(), 2u);
  EXPECT_EQ(page->datasets[0].name(), "c");
  EXPECT_EQ(page->datasets[1].name(), "b");
  page = store_->List(2, page->next_page_token);
  ASSERT_EQ(page->datasets.size(), 1u);
  EXPECT_EQ(page->datasets[0].name(), "a");
  EXPECT_EQ(page->next_page_token, "");
  EXPECT_EQ(store_->List(3, "")->next_page_token, "");
  for (const char* bad : {"x", "-1", "0", "99999999999999999999"}) {
    EXPECT_THAT(store_->List(2, bad),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(DatasetStoreTest, DeletedDatasetIsGone) {
  const auto dataset = Upload(MakeArchive(SmallDataset()));
  ASSERT_THAT(dataset, IsOk());
  AddJob("ft-1", v1::JOB_STATE_SUCCEEDED, dataset->id());
  ASSERT_THAT(store_->Delete(dataset->id()), IsOk());
  EXPECT_FALSE(std::filesystem::exists(store_->PathOf(dataset->id())));
  AwaitNames({});
  const absl::Status status = store_->Find(dataset->id()).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(HasDetail<google::rpc::ResourceInfo>(status));
  EXPECT_THAT(store_->Delete(dataset->id()),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(DatasetStoreTest, DatasetThatAJobNeedsIsKept) {
  const auto dataset = Upload(MakeArchive(SmallDataset()));
  ASSERT_THAT(dataset, IsOk());
  int jobs = 0;
  for (const auto state : {v1::JOB_STATE_QUEUED, v1::JOB_STATE_VALIDATING,
                           v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING}) {
    const std::string job = absl::StrCat("ft-", ++jobs);
    AddJob(job, state, dataset->id());
    const absl::Status status = store_->Delete(dataset->id());
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_TRUE(HasDetail<google::rpc::PreconditionFailure>(status));
    EXPECT_THAT(status.message(), HasSubstr(job));
    ASSERT_THAT(database_->Commit([&](Transaction& transaction) {
      return transaction.Run("DELETE FROM jobs");
    }),
                IsOk());
  }
  EXPECT_TRUE(std::filesystem::exists(store_->PathOf(dataset->id())));
}

}  // namespace
}  // namespace finetune
