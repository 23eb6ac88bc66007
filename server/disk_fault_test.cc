// A disk that fails at every single write of a job's life: what was there
// before still answers, nothing is half done, and the job can be resumed once
// the disk is well.

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"
#include "server/jobs/scheduler.h"
#include "server/jobs/testing/wait.h"
#include "server/state_folder.h"
#include "server/testing/faulty_disk.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using testing::BreakDisk;
using testing::IsOk;
using testing::RepairDisk;
using testing::TempDir;

// Stands in for the trainer: a checkpoint, a report and a model.
absl::Status Train(const fs::path&, const trainer::TrainerSpec& spec,
                   const EventFn& on_event, const std::stop_token&) {
  fs::create_directories(fs::path(spec.checkpoint_dir()) / "step-1");
  trainer::TrainerEvent event;
  event.mutable_dataset_stats()->set_train_images(1);
  on_event(event);
  event.mutable_progress()->add_epochs()->set_epoch(1);
  on_event(event);
  const absl::Status made = MakeFolders(spec.model_dir());
  if (!made.ok()) return made;
  const absl::Status written =
      WriteFileAtomically(fs::path(spec.model_dir()) / kWeightsFile, "weights");
  if (!written.ok()) return written;
  return WriteModelFile(spec.model_dir(), v1::Model());
}

// A server without a network: its state, and what runs on it.
class Life {
 public:
  explicit Life(const fs::path& state) : folder_(*StateFolder::Open(state)) {
    scheduler_.Start();
  }

  absl::StatusOr<v1::FineTuneJob> Submit() {
    JobRequest request;
    request.job.set_model_name("cats");
    request.origin.dataset_dir = "/photos";
    return scheduler_.Submit(request);
  }
  absl::Status Resume(const std::string& id) {
    return scheduler_.Resume(id).status();
  }
  v1::FineTuneJob AwaitEnd(const std::string& id) {
    return testing::WaitForEnd(folder_->jobs(), id);
  }
  StateFolder& folder() { return *folder_; }

 private:
  absl::StatusOr<Publication> Publish(const v1::FineTuneJob& job,
                                      const fs::path& model_dir) {
    auto model = folder_->models().Stage(job.model_name(), model_dir);
    if (!model.ok()) return model.status();
    return Publication{
        .model = model->ref(),
        .joint = {.write =
                      [this, model = *model](Transaction& transaction) {
                        return folder_->models().Insert(model, true,
                                                        transaction);
                      },
                  .apply =
                      [this, model = *model] {
                        folder_->models().Adopt(model, true);
                      }},
        .discard = [this, model = *model] {
          folder_->models().Discard(model);
        }};
  }

  const std::unique_ptr<StateFolder> folder_;
  JobRunner runner_{folder_->jobs_dir(), trainer::TrainerSpec(),
                    folder_->jobs(), Train,
                    [this](const auto& job, const auto& model_dir) {
                      return Publish(job, model_dir);
                    }};
  Scheduler scheduler_{{}, folder_->jobs(), runner_};
};

class DiskFaultTest : public ::testing::TestWithParam<int> {
 protected:
  // Every folder or file below models/, and none that is half written anywhere.
  static int ModelsIn(const fs::path& state) {
    int models = 0;
    for (const auto& entry : fs::recursive_directory_iterator(state)) {
      EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
      models += entry.path().filename() == kWeightsFile &&
                entry.path().native().find("/models/") != std::string::npos;
    }
    return models;
  }

  static void ExpectServed(Life& life, int64_t version) {
    v1::ModelRef ref;
    ref.set_name("cats");
    ref.set_version(version);
    EXPECT_THAT(life.folder().models().Resolve(ref), IsOk()) << version;
  }

  // Runs a job on a disk that fails for good after `successes` writes. Returns
  // whether it failed at all.
  bool FailAfter(int successes) {
    const TempDir dir;
    const fs::path state = dir.path() / "state";
    std::string job_id;
    bool failed = false;
    {
      Life life(state);
      const auto earlier = life.Submit();
      EXPECT_EQ(life.AwaitEnd(earlier->job_id()).state(),
                v1::JOB_STATE_SUCCEEDED);

      BreakDisk(state, successes, GetParam());
      const auto job = life.Submit();
      if (job.ok()) {
        job_id = job->job_id();
        const v1::FineTuneJob end = life.AwaitEnd(job_id);
        EXPECT_EQ(end.state() == v1::JOB_STATE_FAILED, end.has_error());
      } else {
        EXPECT_FALSE(job.status().message().empty());
      }
      failed = RepairDisk();

      ExpectServed(life, 1);
      EXPECT_EQ(life.folder().jobs().Get(earlier->job_id())->state(),
                v1::JOB_STATE_SUCCEEDED);
      if (job.ok() && life.folder().jobs().Get(job_id)->has_error()) {
        const absl::Status resumed = life.Resume(job_id);
        if (absl::IsFailedPrecondition(resumed)) {
          job_id.clear();  // It failed before its first checkpoint.
        } else {
          EXPECT_THAT(resumed, IsOk());
        }
      }
    }
    // Whatever the disk holds, the next server makes sense of.
    Life life(state);
    ExpectServed(life, 1);
    if (!job_id.empty()) {
      const v1::FineTuneJob end = life.AwaitEnd(job_id);
      EXPECT_EQ(end.state(), v1::JOB_STATE_SUCCEEDED)
          << successes << ": " << end.ShortDebugString();
      ExpectServed(life, end.model().version());
      EXPECT_EQ(ModelsIn(state), 2);
    } else {
      EXPECT_EQ(ModelsIn(state), 1);
    }
    return failed;
  }
};

TEST_P(DiskFaultTest, AtEveryWriteOfAJobLosesNothing) {
  int writes = 0;
  while (FailAfter(writes)) ++writes;
  EXPECT_GT(writes, 15);  // Or the disk was not looked at.
}

INSTANTIATE_TEST_SUITE_P(Errors, DiskFaultTest, ::testing::Values(ENOSPC, EIO),
                         [](const auto& info) {
                           return strerrorname_np(info.param);
                         });

}  // namespace
}  // namespace finetune
