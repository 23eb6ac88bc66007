#include "client/download.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <sstream>
#include <string>

#include "common/file.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

// Version 3 of pets is promoted. Its file is `first` and `second`.
class FakeModels final : public v1::ModelService::Service {
 public:
  grpc::Status GetModel(grpc::ServerContext*,
                        const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override {
    v1::ModelRef& ref = *response->mutable_model()->mutable_ref();
    ref = request->model();
    if (ref.name() != "pets") {
      return ToGrpcStatus(NoSuchResourceError("model", ref.name()));
    }
    if (ref.version() == 0) ref.set_version(3);
    if (!other_name.empty()) ref.set_name(other_name);
    return grpc::Status::OK;
  }
  grpc::Status DownloadModel(
      grpc::ServerContext*, const v1::DownloadModelRequest* request,
      grpc::ServerWriter<v1::DownloadModelResponse>* writer) override {
    asked = *request;
    v1::DownloadModelResponse response;
    response.set_total_bytes(
        static_cast<int64_t>(first.size() + second.size()));
    response.set_chunk(first);
    writer->Write(response);
    if (!end.ok()) return ToGrpcStatus(end);
    if (midway) midway();
    response.Clear();
    response.set_chunk(sent_second.empty() ? second : sent_second);
    writer->Write(response);
    response.set_sha256(Sha256Hex(first + second));
    if (!forget_digest) writer->Write(response);
    return grpc::Status::OK;
  }

  v1::DownloadModelRequest asked;
  std::string other_name;  // What GetModel calls the model; empty: as asked.
  std::string first = "abc", second = "def", sent_second;
  bool forget_digest = false;
  std::function<void()> midway;  // Called after `first`.
  absl::Status end;
};

class DownloadTest : public ::testing::Test {
 protected:
  DownloadTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&models_);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    server_ = builder.BuildAndStart();
    connection_.channel = server_->InProcessChannel({});
    model_.set_name("pets");
    options_.file = dir_.path() / "model";
  }

  ExitCode Download() {
    return DownloadModel(connection_, model_, options_, out_, err_);
  }
  // Of FILE; "" where there is none.
  std::string Content() const {
    return ReadFile(dir_.path() / "model", 1000).value_or("");
  }
  bool HasPart() const { return fs::exists(dir_.path() / "model.part"); }

  const TempDir dir_;
  FakeModels models_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  v1::ModelRef model_;
  DownloadOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(DownloadTest, FileHasTheBytesAndOutputItsDigest) {
  EXPECT_EQ(Download(), kDone);
  EXPECT_EQ(Content(), "abcdef");
  EXPECT_FALSE(HasPart());
  EXPECT_EQ(models_.asked.model().version(), 3);
  EXPECT_THAT(out_.str(), HasSubstr("pets@3 is in "));
  EXPECT_THAT(out_.str(), HasSubstr("SHA-256 " + Sha256Hex("abcdef")));
  EXPECT_EQ(err_.str(), "");
}

TEST_F(DownloadTest, JsonNamesTheFile) {
  connection_.json = true;
  EXPECT_EQ(Download(), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("{\"model\":\"pets@3\",\"file\":"));
  EXPECT_THAT(out_.str(), HasSubstr("\"bytes\":6"));
}

TEST_F(DownloadTest, FileIsNamedByItsVersionAndFormat) {
  const fs::path before = fs::current_path();
  fs::current_path(dir_.path());
  options_.file.clear();
  EXPECT_EQ(Download(), kDone);
  options_.format = v1::MODEL_FORMAT_ONNX;
  EXPECT_EQ(Download(), kDone);
  fs::current_path(before);
  EXPECT_TRUE(fs::exists(dir_.path() / "pets-3.safetensors"));
  EXPECT_TRUE(fs::exists(dir_.path() / "pets-3.onnx"));
  EXPECT_EQ(models_.asked.format(), v1::MODEL_FORMAT_ONNX);
}

TEST_F(DownloadTest, ServerCannotChooseAnotherFolder) {
  options_.file.clear();
  for (const char* name : {"../pets", "/tmp/pets", ".pets"}) {
    models_.other_name = name;
    EXPECT_EQ(Download(), kFailed) << name;
  }
}

TEST_F(DownloadTest, FileThatIsThereIsKeptUnlessForced) {
  dir_.Write("model", "mine");
  EXPECT_EQ(Download(), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("--force"));
  EXPECT_EQ(Content(), "mine");
  options_.force = true;
  EXPECT_EQ(Download(), kDone);
  EXPECT_EQ(Content(), "abcdef");
}

TEST_F(DownloadTest, FailureOnTheWayLeavesNothing) {
  models_.end = absl::ResourceExhaustedError("the disk is full");
  EXPECT_EQ(Download(), kFailed);
  EXPECT_EQ(err_.str(), "finetune: the disk is full\n");
  EXPECT_EQ(Content(), "");
  EXPECT_FALSE(HasPart());
}

TEST_F(DownloadTest, InterruptionOnTheWayLeavesNothing) {
  std::promise<pid_t> started;
  std::promise<void> ended;
  std::future<pid_t> client = started.get_future();
  bool had_part = false;
  models_.midway = [&] {
    had_part = HasPart();
    kill(client.get(), SIGINT);
    ended.get_future().wait();
  };
  const std::string server = "127.0.0.1:" + std::to_string(port_);
  const std::string file = options_.file;
  const pid_t pid = fork();
  if (pid == 0) {
    execl(FINETUNE_CLIENT_BINARY, FINETUNE_CLIENT_BINARY, "--server",
          server.c_str(), "download", "pets", "-o", file.c_str(), nullptr);
    _exit(127);
  }
  started.set_value(pid);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  ended.set_value();
  server_->Shutdown();  // The handler has returned.
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGINT);
  EXPECT_TRUE(had_part);
  EXPECT_FALSE(HasPart());
  EXPECT_EQ(Content(), "");
}

TEST_F(DownloadTest, WhatIsDamagedOnTheWayIsNotKept) {
  for (const char* second : {"dEf", "de", "defg"}) {
    models_.sent_second = second;
    EXPECT_EQ(Download(), kFailed);
    EXPECT_EQ(Content(), "");
    EXPECT_FALSE(HasPart());
  }
  models_.sent_second.clear();
  models_.forget_digest = true;
  EXPECT_EQ(Download(), kFailed);
  EXPECT_EQ(Content(), "");
}

TEST_F(DownloadTest, PlaceThatCannotBeWrittenIsNamed) {
  options_.file = dir_.path() / "none/model";
  EXPECT_EQ(Download(), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("none/model.part"));
}

TEST_F(DownloadTest, FileThatCannotBeWrittenWholeIsAFailureAndLeavesNothing) {
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 4;  // Bytes of a file.
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const ExitCode code = Download();
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(code, kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("model.part"));
  EXPECT_EQ(Content(), "");
  EXPECT_FALSE(HasPart());
}

TEST_F(DownloadTest, FileNameCannotDrawOnTheTerminal) {
  options_.file = dir_.path() / "a\x1b[2J\nb";
  EXPECT_EQ(Download(), kDone);
  EXPECT_EQ(Download(), kFailed);
  EXPECT_THAT(out_.str(), HasSubstr("/a\\x1b[2J\\nb, 6 bytes\n"));
  EXPECT_THAT(err_.str(), HasSubstr("/a\\x1b[2J\\nb exists; --force"));
}

TEST_F(DownloadTest, UnknownModelIsExitCodeOne) {
  model_.set_name("birds");
  EXPECT_EQ(Download(), kFailed);
  EXPECT_EQ(err_.str(), "finetune: no model \"birds\"\n");
}

}  // namespace
}  // namespace finetune
