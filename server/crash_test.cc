// Trainers and servers that are killed: at random moments of a real job, inside
// the writing of a checkpoint and inside the publication of a model. Nothing is
// lost, and the weights are those of a job that nobody disturbed.
//
//   CRASH_TEST_KILLS  random kills to make, 20 by default
//   CRASH_TEST_SEED   of their moments, 1 by default

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/file.h"
#include "common/grpc_status.h"
#include "common/sha256.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/testing/pictures.h"
#include "server/testing/server_process.h"
#include "server/testing/setting.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using testing::Image;
using testing::IsOk;
using testing::ServerProcess;
using testing::Setting;
using testing::TempDir;

class CrashTest : public ::testing::Test {
 protected:
  CrashTest() {
    for (const char* split : {"train", "test"}) {
      dir_.Write(fs::path("data/pets") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/pets") / split / "cat/2.jpg",
                 Image("progressive_422.jpg"));
      dir_.Write(fs::path("data/pets") / split / "dog/1.png", Image("rgb.png"));
      dir_.Write(fs::path("data/pets") / split / "dog/2.jpg",
                 Image("small_420.jpg"));
    }
    StartServer();
  }

  void StartServer() {
    server_.reset();
    server_ = std::make_unique<ServerProcess>(
        std::vector<std::string>{
            FINETUNE_SERVER_BINARY, "--address", "127.0.0.1:0", "--state_dir",
            state_, "--data_root", dir_.path() / "data", "--device", "cpu",
            "--threads", "1", "--decode_threads", "1", "--checkpoint_interval",
            "1", "--trainer_priority", "normal"},
        std::vector<std::string>{
            absl::StrCat("LD_PRELOAD=", FINETUNE_FAULTY_DISK),
            absl::StrCat("FAULTY_DISK=", state_.native())},
        dir_.path() / "server.log");
    ASSERT_NE(server_->channel(), nullptr)
        << *ReadFile(dir_.path() / "server.log", 1 << 20);
    stub_ = v1::TrainingService::NewStub(server_->channel());
  }

  std::string StartJob(int epochs = 3) {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    v1::HyperParameters& parameters = *request.mutable_hyper_parameters();
    parameters.set_from_scratch(true);
    parameters.set_seed(7);
    parameters.set_epochs(epochs);
    parameters.set_batch_size(2);
    parameters.set_momentum(0.9);
    parameters.set_learning_rate(0.001);
    v1::StartFineTuneResponse response;
    grpc::ClientContext context;
    EXPECT_THAT(
        FromGrpcStatus(stub_->StartFineTune(&context, request, &response)),
        IsOk());
    return response.job().job_id();
  }

  // Watches until `reached` or the stream breaks, from where the last watch of
  // the job was, and checks that nothing comes twice or is taken back.
  template <typename Condition>
  bool WatchUntil(const std::string& job_id, Condition reached) {
    v1::WatchProgressRequest request;
    request.set_job_id(job_id);
    request.set_after_sequence(
        latest_.job().job_id() == job_id ? latest_.sequence() : 0);
    grpc::ClientContext context;
    const auto reader = stub_->WatchProgress(&context, request);
    v1::WatchProgressResponse next;
    bool found = false;
    while (!found && reader->Read(&next)) {
      EXPECT_GT(next.sequence(), request.after_sequence());
      if (latest_.job().job_id() == job_id) {
        EXPECT_GE(next.job().progress().epochs_size(),
                  latest_.job().progress().epochs_size());
      }
      request.set_after_sequence(next.sequence());
      latest_ = next;
      found = reached(next.job());
    }
    context.TryCancel();
    reader->Finish();
    return found;
  }

  // Follows the job over all crashes. SUCCEEDED, or the test fails.
  v1::FineTuneJob Finish(const std::string& job_id) {
    const auto ended = [](const v1::FineTuneJob& job) {
      return job.has_end_time();
    };
    while (!WatchUntil(job_id, ended)) {
      if (!server_->IsRunning()) StartServer();
      if (HasFatalFailure()) break;
    }
    EXPECT_EQ(latest_.job().state(), v1::JOB_STATE_SUCCEEDED)
        << latest_.job().ShortDebugString();
    return latest_.job();
  }

  std::string WeightsOf(const v1::FineTuneJob& job) {
    return Sha256Hex(*ReadFile(state_ / "models" / job.model().name() /
                                   absl::StrCat(job.model().version()) /
                                   "weights.safetensors",
                               1 << 30));
  }

  // All files of the state folder, with "X" for ids and numbers, but models
  // that were killed on their way out, whole: those are kept in lost+found.
  std::multiset<std::string> Files() {
    std::multiset<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(state_)) {
      if (!entry.is_regular_file()) continue;
      std::string name = entry.path().lexically_relative(state_);
      if (name.starts_with("lost+found/models-pets-")) continue;
      for (const char* prefix : {"jobs/", "models/pets/"}) {
        if (!name.starts_with(prefix)) continue;
        const size_t begin = std::string(prefix).size();
        name = absl::StrCat(prefix, "X", name.substr(name.find('/', begin)));
      }
      files.insert(name);
    }
    return files;
  }

  // The model of a job that nobody disturbs, and the files of its server.
  void RunReference() {
    reference_ = WeightsOf(Finish(StartJob()));
    EXPECT_EQ(server_->Terminate(), 0);
    reference_files_ = Files();
    fs::remove_all(state_);
    StartServer();
  }

  // The server's files are those of `jobs` undisturbed jobs.
  void ExpectNoLeftovers(int jobs) {
    EXPECT_EQ(server_->Terminate(), 0);
    const std::multiset<std::string> files = Files();
    for (const std::string& name : files) {
      const bool is_one_only =
          !name.starts_with("jobs/") && !name.starts_with("models/pets/");
      EXPECT_EQ(files.count(name),
                reference_files_.count(name) * (is_one_only ? 1 : jobs))
          << name;
    }
  }

  // Tells the faulty disk what to do next.
  void Command(const std::string& command) {
    ASSERT_THAT(WriteFileAtomically(state_.native() + ".fault", command),
                IsOk());
  }

  const TempDir dir_;
  const fs::path state_ = dir_.path() / "state";
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<v1::TrainingService::Stub> stub_;
  v1::WatchProgressResponse latest_;
  std::string reference_;
  std::multiset<std::string> reference_files_;
};

TEST_F(CrashTest, KillsAtRandomMomentsLoseNothingAndChangeNoBit) {
  RunReference();
  std::mt19937 random(Setting("CRASH_TEST_SEED", 1));
  const int kills = Setting("CRASH_TEST_KILLS", 20);
  int done = 0, jobs = 0, trainers = 0;
  while (done < kills) {
    const std::string job_id = StartJob();
    ++jobs;
    // A trainer may die three times; a server as often as it likes.
    for (int deaths = 0; deaths < 3 && done < kills; ++deaths) {
      WatchUntil(job_id, [](const v1::FineTuneJob& job) {
        return job.state() == v1::JOB_STATE_RUNNING || job.has_end_time();
      });
      absl::SleepFor(absl::Milliseconds(random() % 1500));
      if (random() % 2 == 0) {
        trainers += server_->KillTrainer();
      } else {
        server_->Kill();
        StartServer();
      }
      ++done;
    }
    EXPECT_EQ(WeightsOf(Finish(job_id)), reference_) << "job " << jobs;
    ASSERT_FALSE(HasFatalFailure());
  }
  std::cout << done << " kills, " << trainers << " of trainers, " << jobs
            << " jobs\n";
  ExpectNoLeftovers(jobs);
}

TEST_F(CrashTest, KillsInsideACheckpointAndAPublicationLoseNothing) {
  RunReference();
  int jobs = 0;
  for (const char* command :
       {"kill before /checkpoints/", "kill after /checkpoints/",
        "kill before /model/weights.safetensors", "kill before /models/pets/",
        "kill after /models/pets/"}) {
    Command(command);
    EXPECT_EQ(WeightsOf(Finish(StartJob())), reference_) << command;
    EXPECT_FALSE(fs::exists(state_.native() + ".fault")) << command;
    ++jobs;
  }
  ExpectNoLeftovers(jobs);
}

TEST_F(CrashTest, FullDiskFailsTheJobWhichIsResumedWhenThereIsRoom) {
  RunReference();
  const v1::FineTuneJob earlier = Finish(StartJob());
  Command("full after /checkpoints/epochs-0002");
  const std::string job_id = StartJob();
  ASSERT_TRUE(WatchUntil(
      job_id, [](const v1::FineTuneJob& job) { return job.has_end_time(); }));
  EXPECT_EQ(latest_.job().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(latest_.job().error().code(),
            static_cast<int>(absl::StatusCode::kResourceExhausted))
      << latest_.job().error().ShortDebugString();

  v1::GetProgressRequest request;
  request.set_job_id(earlier.job_id());
  v1::GetProgressResponse progress;
  grpc::ClientContext asking;
  EXPECT_THAT(FromGrpcStatus(stub_->GetProgress(&asking, request, &progress)),
              IsOk());
  EXPECT_EQ(progress.job().state(), v1::JOB_STATE_SUCCEEDED);

  fs::remove(state_.native() + ".fault");
  v1::ResumeFineTuneRequest resume;
  resume.set_job_id(job_id);
  v1::ResumeFineTuneResponse resumed;
  grpc::ClientContext context;
  ASSERT_THAT(FromGrpcStatus(stub_->ResumeFineTune(&context, resume, &resumed)),
              IsOk());
  EXPECT_EQ(WeightsOf(Finish(job_id)), reference_);
  ExpectNoLeftovers(2);
}

TEST_F(CrashTest, TrainerThatDiesAgainAndAgainFailsItsJobWithTheReason) {
  const std::string job_id = StartJob(1000);
  for (int deaths = 0; deaths < 4; ++deaths) {
    ASSERT_TRUE(WatchUntil(job_id, [deaths](const v1::FineTuneJob& job) {
      return job.state() == v1::JOB_STATE_RUNNING &&
             job.trainer_restarts() == deaths;
    }));
    while (!server_->KillTrainer()) {
    }
  }
  ASSERT_TRUE(WatchUntil(
      job_id, [](const v1::FineTuneJob& job) { return job.has_end_time(); }));
  EXPECT_EQ(latest_.job().state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(latest_.job().error().message(),
              ::testing::HasSubstr("signal 9"));
  EXPECT_EQ(latest_.job().trainer_restarts(), 3);
}

}  // namespace
}  // namespace finetune
