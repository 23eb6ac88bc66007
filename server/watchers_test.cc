// A thousand watchers of one job, half of whom never read, cost the server
// little memory and training little time.

#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/testing/pictures.h"
#include "server/testing/server_process.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using testing::IsOk;
using testing::ServerProcess;
using testing::TempDir;

constexpr int kChannels = 20, kWatchersPerChannel = 50;

// Processor seconds that a process has used, without its children.
double CpuSecondsOf(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream fields;
  fields << stat.rdbuf();
  const std::string text = fields.str();
  std::istringstream rest(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int field = 3; field < 14; ++field) rest >> skipped;
  double user = 0, system = 0;
  rest >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

class WatchersTest : public ::testing::Test {
 protected:
  using Reader = grpc::ClientReader<v1::WatchProgressResponse>;
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<Reader> reader;
  };

  WatchersTest() {
    const std::string image = testing::Image("landscape_420.jpg");
    for (const char* split : {"train", "test"}) {
      for (const char* label : {"cat", "dog"}) {
        dir_.Write(fs::path("data/pets") / split / label / "1.jpg", image);
      }
    }
    server_ = std::make_unique<ServerProcess>(
        std::vector<std::string>{FINETUNE_SERVER_BINARY, "--address",
                                 "127.0.0.1:0", "--state_dir",
                                 dir_.path() / "state", "--data_root",
                                 dir_.path() / "data", "--device", "cpu"},
        std::vector<std::string>(), dir_.path() / "server.log");
    stub_ = v1::TrainingService::NewStub(server_->channel());
  }

  std::string StartEndlessJob() {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    request.mutable_hyper_parameters()->set_from_scratch(true);
    request.mutable_hyper_parameters()->set_epochs(1000);
    v1::StartFineTuneResponse response;
    grpc::ClientContext context;
    EXPECT_THAT(
        FromGrpcStatus(stub_->StartFineTune(&context, request, &response)),
        IsOk());
    return response.job().job_id();
  }

  // Opens all streams of a channel: every second one is read on, the others
  // stall after the first answer.
  void OpenStreams(const std::string& job_id) {
    v1::WatchProgressRequest request;
    request.set_job_id(job_id);
    const auto stub = v1::TrainingService::NewStub(server_->Connect());
    for (int i = 0; i < kWatchersPerChannel; ++i) {
      auto stream = std::make_unique<Stream>();
      stream->reader = stub->WatchProgress(&stream->context, request);
      v1::WatchProgressResponse first;
      EXPECT_TRUE(stream->reader->Read(&first));
      if (i % 2 == 0) {
        readers_.emplace_back([reader = stream->reader.get()] {
          v1::WatchProgressResponse next;
          while (reader->Read(&next)) {
          }
        });
      }
      streams_.push_back(std::move(stream));
    }
  }

  // What the server uses of one core while a job runs for a while.
  double ShareOfACore() {
    const absl::Time begin = absl::Now();
    const double before = CpuSecondsOf(server_->pid());
    absl::SleepFor(absl::Seconds(5));
    return (CpuSecondsOf(server_->pid()) - before) /
           absl::ToDoubleSeconds(absl::Now() - begin);
  }

  const TempDir dir_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<v1::TrainingService::Stub> stub_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<std::thread> readers_;
};

TEST_F(WatchersTest, AThousandOfThemHalfStalledCostLittle) {
  const std::string job_id = StartEndlessJob();
  v1::WatchProgressRequest request;
  request.set_job_id(job_id);
  {
    grpc::ClientContext context;
    const auto reader = stub_->WatchProgress(&context, request);
    v1::WatchProgressResponse next;
    while (reader->Read(&next) && next.job().progress().step() == 0) {
    }
    context.TryCancel();
    reader->Finish();
  }
  const double alone = ShareOfACore(), memory = server_->ResidentMegabytes();
  for (int i = 0; i < kChannels; ++i) OpenStreams(job_id);
  ASSERT_EQ(streams_.size(), 1000u);
  const double watched = ShareOfACore();
  const double grown = server_->ResidentMegabytes() - memory;
  std::cout << "the server's share of a core: " << alone << " alone, "
            << watched << " with 1000 watchers; memory +" << grown << " MB\n";
  EXPECT_LT(grown, 200);
  EXPECT_LT(watched - alone,
            0.05 * static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN)));

  for (const auto& stream : streams_) stream->context.TryCancel();
  for (std::thread& reader : readers_) reader.join();
}

}  // namespace
}  // namespace finetune
