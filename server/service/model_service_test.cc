#include "server/service/model_service.h"

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/file.h"
#include "common/grpc_status.h"
#include "common/sha256.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/service/inference_service.h"
#include "server/service/testing/fake_inference.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

v1::ModelRef Ref(const std::string& name, int64_t version) {
  v1::ModelRef ref;
  ref.set_name(name);
  ref.set_version(version);
  return ref;
}

struct Downloaded {
  std::string bytes, sha256;
  int64_t total_bytes = 0;
  size_t largest_chunk = 0;
};

class ModelServiceTest : public ::testing::Test {
 protected:
  ModelServiceTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.RegisterService(&inference_service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::ModelService::NewStub(server_->InProcessChannel({}));
  }

  ModelHooks Hooks() {
    return {.prepare =
                [this](const v1::Model& model,
                       const std::function<void(absl::Status)>& done) {
                  done(prepared_.ok() ? inference_.models.Load(model).status()
                                      : prepared_);
                },
            .promoted = [this] { ++promotions_; },
            .deleted =
                [this](const v1::ModelRef& ref) {
                  deleted_.push_back(ref.version());
                },
            .export_onnx =
                [this](const v1::Model& model, const fs::path& path) {
                  ++exports_;
                  if (!exported_.ok()) return exported_;
                  return WriteFileAtomically(path, "onnx of " + model.job_id());
                }};
  }

  // A version whose file has these bytes, and that digest in its record.
  void PublishFile(const std::string& weights, const std::string& sha256 = "") {
    inference_.dir.Write("staging/weights.safetensors", weights);
    v1::Model model;
    model.add_labels("ant");
    model.set_job_id("ft-1");
    model.set_weights_sha256(sha256);
    ModelRegistry& registry = *inference_.registry;
    ASSERT_THAT(WriteModelFile(inference_.dir.path() / "staging", model),
                IsOk());
    const auto staged =
        registry.Stage("insects", inference_.dir.path() / "staging");
    ASSERT_THAT(staged, IsOk());
    ASSERT_THAT(inference_.database->Commit([&](Transaction& transaction) {
      return registry.Insert(*staged, true, transaction);
    }),
                IsOk());
    registry.Adopt(*staged, true);
  }

  absl::StatusOr<v1::ListModelsResponse> List(
      const v1::ListModelsRequest& request) {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    const grpc::Status status = stub_->ListModels(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }
  absl::StatusOr<v1::Model> Get(const v1::ModelRef& ref) {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    *request.mutable_model() = ref;
    v1::GetModelResponse response;
    const grpc::Status status = stub_->GetModel(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response.model();
  }
  absl::StatusOr<v1::Model> Promote(const v1::ModelRef& ref) {
    grpc::ClientContext context;
    v1::PromoteModelRequest request;
    *request.mutable_model() = ref;
    v1::PromoteModelResponse response;
    const grpc::Status status =
        stub_->PromoteModel(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response.model();
  }
  absl::Status Delete(const v1::ModelRef& ref) {
    grpc::ClientContext context;
    v1::DeleteModelRequest request;
    *request.mutable_model() = ref;
    v1::DeleteModelResponse response;
    return FromGrpcStatus(stub_->DeleteModel(&context, request, &response));
  }

  absl::StatusOr<Downloaded> Download(
      const v1::ModelRef& ref,
      v1::ModelFormat format = v1::MODEL_FORMAT_UNSPECIFIED) {
    grpc::ClientContext context;
    v1::DownloadModelRequest request;
    *request.mutable_model() = ref;
    request.set_format(format);
    const auto reader = stub_->DownloadModel(&context, request);
    Downloaded file;
    v1::DownloadModelResponse response;
    while (reader->Read(&response)) {
      EXPECT_EQ(file.sha256, "");  // It is the last message.
      file.total_bytes += response.total_bytes();
      file.bytes += response.chunk();
      file.largest_chunk =
          std::max(file.largest_chunk, response.chunk().size());
      file.sha256 = response.sha256();
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpcStatus(status);
    return file;
  }

  absl::Status prepared_, exported_;
  std::atomic<int> promotions_ = 0, exports_ = 0;
  std::vector<int64_t> deleted_;
  testing::FakeInference inference_;
  const Authorizer authorizer_;  // Allows all.
  ModelService service_{
      {.max_downloads = 2}, Hooks(), *inference_.registry, authorizer_};
  InferenceService inference_service_{
      {}, inference_.classifier, inference_.calls, authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::ModelService::Stub> stub_;
};

TEST_F(ModelServiceTest, ListsInPagesByNameAndSaysWhatIsPromoted) {
  inference_.Publish("insects");
  inference_.Publish("insects", /*promote=*/false);
  inference_.Publish("birds");
  v1::ListModelsRequest request;
  request.set_page_size(2);
  auto page = List(request);
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->models_size(), 2);
  request.set_page_token(page->next_page_token());
  page = List(request);
  ASSERT_THAT(page, IsOk());
  EXPECT_EQ(page->models_size(), 1);
  EXPECT_EQ(page->next_page_token(), "");

  request.Clear();
  request.set_name("insects");
  page = List(request);
  ASSERT_EQ(page->models_size(), 2);
  EXPECT_FALSE(page->models(0).promoted());
  EXPECT_TRUE(page->models(1).promoted());
}

TEST_F(ModelServiceTest, GetMeansTheSameAsClassify) {
  EXPECT_THAT(Get({}), StatusIs(absl::StatusCode::kFailedPrecondition));
  inference_.Publish("insects");
  inference_.Publish("insects", /*promote=*/false);
  EXPECT_EQ(Get({})->ref().version(), 1);
  EXPECT_EQ(Get(Ref("insects", 0))->ref().version(), 1);
  EXPECT_EQ(Get(Ref("insects", 2))->labels_size(), 3);
  EXPECT_THAT(Get(Ref("insects", 3)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ModelServiceTest, PromotesAndRollsBack) {
  inference_.Publish("insects");
  inference_.Publish("insects");
  const auto older = Promote(Ref("insects", 1));
  ASSERT_THAT(older, IsOk());
  EXPECT_TRUE(older->promoted());
  EXPECT_EQ(Get({})->ref().version(), 1);
  ASSERT_THAT(Promote(Ref("insects", 1)), IsOk());  // Idempotent.
  ASSERT_THAT(Promote(Ref("insects", 2)), IsOk());
  EXPECT_EQ(Get({})->ref().version(), 2);
  EXPECT_EQ(promotions_, 3);
}

TEST_F(ModelServiceTest, VersionThatCannotBeLoadedIsNotPromoted) {
  inference_.Publish("insects");
  inference_.Publish("insects");
  prepared_ = absl::DataLossError("damaged");
  EXPECT_THAT(Promote(Ref("insects", 1)),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(Get({})->ref().version(), 2);
  EXPECT_EQ(promotions_, 0);
}

TEST_F(ModelServiceTest, DeletesWhatIsNotPromoted) {
  inference_.Publish("insects");
  inference_.Publish("insects");
  EXPECT_THAT(Delete(Ref("insects", 2)),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Delete(Ref("insects", 3)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Delete(Ref("insects", 1)), IsOk());
  EXPECT_THAT(Get(Ref("insects", 1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(deleted_, ElementsAre(1));
}

TEST_F(ModelServiceTest, BadFieldsAreNamedWithTheirRange) {
  v1::ListModelsRequest list;
  list.set_page_size(101);
  EXPECT_THAT(std::string(List(list).status().message()),
              HasSubstr("page_size"));
  list.Clear();
  list.set_name("No Name");
  EXPECT_THAT(std::string(List(list).status().message()), HasSubstr("name"));
  list.Clear();
  list.set_page_token("x");
  EXPECT_THAT(std::string(List(list).status().message()),
              HasSubstr("page_token"));
  EXPECT_THAT(std::string(Get(Ref("", 1)).status().message()),
              HasSubstr("model.name"));
  for (const absl::Status& status :
       {Promote(Ref("insects", 0)).status(), Delete(Ref("insects", 0)),
        Promote(Ref("insects", -1)).status(),
        Get(Ref("insects", -1)).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.version"));
  }
  EXPECT_THAT(Promote(Ref("", 1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  const auto format = Download({}, static_cast<v1::ModelFormat>(7));
  EXPECT_THAT(format, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(format.status().message()), HasSubstr("format"));
}

TEST_F(ModelServiceTest, DownloadIsTheFileInChunksAndItsDigest) {
  std::string weights(5 << 19, 'w');  // 2.5 MiB.
  weights.back() = 'x';
  PublishFile(weights, Sha256Hex(weights));
  const auto file = Download(Ref("insects", 1));
  ASSERT_THAT(file, IsOk());
  EXPECT_TRUE(file->bytes == weights);
  EXPECT_EQ(file->sha256, Sha256Hex(weights));
  EXPECT_EQ(file->total_bytes, weights.size());
  EXPECT_LE(file->largest_chunk, 1 << 20);
  EXPECT_TRUE(Download({})->bytes == weights);  // The default model.
}

TEST_F(ModelServiceTest, DownloadOfNothingThatIsThereFails) {
  EXPECT_THAT(Download({}), StatusIs(absl::StatusCode::kFailedPrecondition));
  PublishFile("weights");
  EXPECT_THAT(Download(Ref("insects", 2)),
              StatusIs(absl::StatusCode::kNotFound));
  fs::remove(inference_.registry->DirOf(Ref("insects", 1)) / kWeightsFile);
  const auto gone = Download(Ref("insects", 1));
  EXPECT_THAT(gone, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(gone.status().message(), "no model \"insects@1\"");
}

TEST_F(ModelServiceTest, DamagedFileIsDataLoss) {
  PublishFile("weights", Sha256Hex("others"));
  EXPECT_THAT(Download({}), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(ModelServiceTest, DownloadGoesOnAfterItsModelWasDeleted) {
  const std::string weights(8 << 20, 'w');
  PublishFile(weights);
  inference_.Publish("insects");
  grpc::ClientContext context;
  v1::DownloadModelRequest request;
  *request.mutable_model() = Ref("insects", 1);
  const auto reader = stub_->DownloadModel(&context, request);
  v1::DownloadModelResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::string bytes = response.chunk();
  ASSERT_THAT(Delete(Ref("insects", 1)), IsOk());
  while (reader->Read(&response)) bytes += response.chunk();
  EXPECT_THAT(FromGrpcStatus(reader->Finish()), IsOk());
  EXPECT_TRUE(bytes == weights);
  EXPECT_EQ(response.sha256(), Sha256Hex(weights));
}

TEST_F(ModelServiceTest, OnnxIsMadeOnce) {
  PublishFile("weights");
  for (int i = 0; i < 2; ++i) {
    const auto file = Download({}, v1::MODEL_FORMAT_ONNX);
    ASSERT_THAT(file, IsOk());
    EXPECT_EQ(file->bytes, "onnx of ft-1");
    EXPECT_EQ(file->sha256, Sha256Hex("onnx of ft-1"));
  }
  EXPECT_EQ(exports_, 1);
}

TEST_F(ModelServiceTest, OnnxThatCannotBeMadeIsTheCallsError) {
  PublishFile("weights");
  exported_ = absl::ResourceExhaustedError("the disk is full");
  EXPECT_THAT(Download({}, v1::MODEL_FORMAT_ONNX),
              StatusIs(absl::StatusCode::kResourceExhausted));
  exported_ = absl::OkStatus();
  EXPECT_THAT(Download({}, v1::MODEL_FORMAT_ONNX), IsOk());
}

TEST_F(ModelServiceTest, TooManyDownloadsAreRefusedUntilOneEnds) {
  PublishFile(std::string(64 << 20, 'w'));
  v1::DownloadModelRequest request;
  v1::DownloadModelResponse response;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::DownloadModelResponse>>>
      stalled;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    stalled.push_back(stub_->DownloadModel(contexts.back().get(), request));
    ASSERT_TRUE(stalled.back()->Read(&response));
  }
  EXPECT_THAT(Download({}), StatusIs(absl::StatusCode::kResourceExhausted));
  contexts[0]->TryCancel();
  EXPECT_FALSE(stalled[0]->Finish().ok());
  absl::Status again;
  do {  // Until the server has seen it, too.
    again = Download({}).status();
  } while (absl::IsResourceExhausted(again));
  EXPECT_THAT(again, IsOk());
  contexts[1]->TryCancel();
}

TEST_F(ModelServiceTest, PromotionsUnderLoadFailNothingAndMixNothing) {
  inference_.Publish("insects");
  inference_.Publish("insects");
  const auto channel = server_->InProcessChannel({});
  std::atomic<bool> ends = false;
  std::atomic<int> failures = 0, strangers = 0, answers = 0;
  const auto classify = [&](v1::InferenceService::Stub& stub) -> int64_t {
    v1::ClassifyRequest request;
    for (int i = 0; i < 3; ++i) request.add_images("bee");
    grpc::ClientContext context;
    v1::ClassifyResponse response;
    if (!stub.Classify(&context, request, &response).ok()) ++failures;
    ++answers;
    return response.model().version();
  };
  std::vector<std::jthread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      const auto stub = v1::InferenceService::NewStub(channel);
      while (!ends) {
        const int64_t version = classify(*stub);
        if (version != 1 && version != 2) ++strangers;
      }
    });
  }
  const auto stub = v1::InferenceService::NewStub(channel);
  for (int i = 0; i < 200; ++i) {
    const int64_t version = 1 + i % 2;
    ASSERT_THAT(Promote(Ref("insects", version)), IsOk());
    EXPECT_EQ(classify(*stub), version);
  }
  ends = true;
  callers.clear();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(strangers, 0);
  EXPECT_GE(answers, 200);
}

}  // namespace
}  // namespace finetune
