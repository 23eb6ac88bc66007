#include "server/service/classify_stream.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/classify.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "server/service/inference_service.h"
#include "server/service/testing/fake_inference.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::StatusIs;

constexpr int kMaxItems = 8;
constexpr size_t kMaxImageBytes = 10;

v1::ClassifyStreamRequest Item(const std::string& id,
                               const std::string& image = "bee") {
  v1::ClassifyStreamRequest request;
  request.set_item_id(id);
  request.set_image(image);
  return request;
}

// A server and what a caller does with it.
class ClassifyStreamTest : public ::testing::Test {
 protected:
  explicit ClassifyStreamTest(Batcher::Options options = {})
      : inference_(options) {
    inference_.Publish("insects");
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::InferenceService::NewStub(server_->InProcessChannel({}));
  }
  ~ClassifyStreamTest() override {
    inference_.gate.Open();
    server_->Shutdown(std::chrono::system_clock::now());
    inference_.batcher.Shutdown();
  }

  // One stream of a caller's.
  struct Call {
    explicit Call(v1::InferenceService::Stub& stub)
        : stream(stub.ClassifyStream(&context)) {}

    bool Send(const v1::ClassifyStreamRequest& request) {
      return stream->Write(request);
    }
    // The answers up to the stream's end, by their items; none comes twice.
    std::map<std::string, v1::ClassifyStreamResponse> ReadAll() {
      std::map<std::string, v1::ClassifyStreamResponse> answers;
      v1::ClassifyStreamResponse response;
      while (stream->Read(&response)) {
        EXPECT_TRUE(answers.emplace(response.item_id(), response).second);
      }
      return answers;
    }
    absl::Status Finish() { return FromGrpcStatus(stream->Finish()); }

    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::ClassifyStreamRequest,
                                             v1::ClassifyStreamResponse>>
        stream;
  };

  testing::FakeInference inference_;
  const Authorizer authorizer_;  // Allows all.
  InferenceService service_{
      {.max_image_bytes = kMaxImageBytes, .max_stream_items = kMaxItems},
      inference_.classifier,
      inference_.calls,
      authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

class TinyQueueTest : public ClassifyStreamTest {
 protected:
  TinyQueueTest() : ClassifyStreamTest({.max_batch = 1, .max_waiting = 1}) {}
};

TEST_F(ClassifyStreamTest, EachImageIsAnsweredUnderItsId) {
  Call call(*stub_);
  auto second = Item("b");
  second.set_top_k(1);
  second.mutable_model()->set_name("insects");
  EXPECT_TRUE(call.Send(Item("a")) && call.Send(second));
  call.stream->WritesDone();
  const auto answers = call.ReadAll();
  EXPECT_THAT(call.Finish(), IsOk());
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers.at("a").result().scores_size(), 3);
  EXPECT_EQ(answers.at("b").result().scores_size(), 1);
  EXPECT_EQ(answers.at("b").result().scores(0).label(), "bee");
  EXPECT_EQ(answers.at("b").model().name(), "insects");
  EXPECT_EQ(answers.at("b").model().version(), 1);
}

TEST_F(ClassifyStreamTest, BadImageFailsAlone) {
  Call call(*stub_);
  call.Send(Item("noise", "noise"));
  call.Send(Item("empty", ""));
  call.Send(Item("large", std::string(kMaxImageBytes + 1, 'x')));
  call.Send(Item("bee"));
  call.stream->WritesDone();
  const auto answers = call.ReadAll();
  EXPECT_THAT(call.Finish(), IsOk());
  ASSERT_EQ(answers.size(), 4u);
  for (const char* id : {"noise", "empty", "large"}) {
    const auto& answer = answers.at(id);
    EXPECT_THAT(FromRpcStatus(answer.result().error()),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_FALSE(answer.has_model());
  }
  EXPECT_EQ(answers.at("large").result().error().message(),
            "image must be 1..10 bytes, not 11");
  EXPECT_FALSE(answers.at("bee").result().has_error());
}

TEST_F(ClassifyStreamTest, BadFieldEndsTheStreamAfterTheAnswersBeforeIt) {
  auto bad_top_k = Item("b");
  bad_top_k.set_top_k(1001);
  auto bad_name = Item("b");
  bad_name.mutable_model()->set_name("../insects");
  auto no_name = Item("b");
  no_name.mutable_model()->set_version(1);
  for (const auto& [field, bad] :
       {std::pair("item_id", Item("")),
        std::pair("item_id", Item(std::string(256, 'a'))),
        std::pair("top_k", bad_top_k), std::pair("model.name", bad_name),
        std::pair("model.name", no_name)}) {
    Call call(*stub_);
    call.Send(Item("a"));
    call.Send(bad);
    EXPECT_EQ(call.ReadAll().count("a"), 1u);
    const absl::Status status = call.Finish();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    google::rpc::BadRequest detail;
    ASSERT_TRUE(ToRpcStatus(status).details(0).UnpackTo(&detail));
    EXPECT_EQ(detail.field_violations(0).field(), field);
  }
}

TEST_F(ClassifyStreamTest, UnknownModelIsTheItemsErrorHoweverManyThereAre) {
  constexpr int kItems = 2000;  // Each is answered within the call to classify.
  Call call(*stub_);
  std::thread writer([&] {
    for (int i = 0; i < kItems; ++i) {
      auto item = Item(absl::StrCat(i));
      item.mutable_model()->set_name("birds");
      call.Send(item);
    }
    call.stream->WritesDone();
  });
  const auto answers = call.ReadAll();
  writer.join();
  EXPECT_THAT(call.Finish(), IsOk());
  EXPECT_EQ(answers.size(), size_t{kItems});
  EXPECT_THAT(FromRpcStatus(answers.at("7").result().error()),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ClassifyStreamTest, ThousandsOfImagesGoThroughAFewAtATime) {
  constexpr int kItems = 5000;
  Call call(*stub_);
  std::thread writer([&] {
    for (int i = 0; i < kItems; ++i) call.Send(Item(absl::StrCat(i)));
    call.stream->WritesDone();
  });
  const auto answers = call.ReadAll();
  writer.join();
  EXPECT_THAT(call.Finish(), IsOk());
  EXPECT_EQ(answers.size(), size_t{kItems});
  EXPECT_EQ(inference_.seen, kItems);
  EXPECT_LE(inference_.waiting, kMaxItems);
}

TEST_F(ClassifyStreamTest, ReaderThatStopsHoldsUpItsOwnStreamAlone) {
  constexpr int kItems = 100;
  Call stalled(*stub_);
  std::thread writer([&] {
    for (int i = 0; i < kItems; ++i) stalled.Send(Item(absl::StrCat(i)));
    stalled.stream->WritesDone();
  });
  Call other(*stub_);
  other.Send(Item("a"));
  other.stream->WritesDone();
  EXPECT_EQ(other.ReadAll().size(), 1u);
  EXPECT_THAT(other.Finish(), IsOk());
  EXPECT_LE(inference_.asked, kMaxItems + 2);  // One answer is on its way.

  EXPECT_EQ(stalled.ReadAll().size(), size_t{kItems});
  writer.join();
  EXPECT_THAT(stalled.Finish(), IsOk());
}

TEST_F(ClassifyStreamTest, HalfCloseWaitsForTheLastAnswer) {
  inference_.gate.Close();
  Call call(*stub_);
  call.Send(Item("a"));
  call.Send(Item("b"));
  call.stream->WritesDone();
  inference_.gate.AwaitEntered();
  inference_.gate.Open();
  EXPECT_EQ(call.ReadAll().size(), 2u);
  EXPECT_THAT(call.Finish(), IsOk());

  Call empty(*stub_);
  empty.stream->WritesDone();
  EXPECT_EQ(empty.ReadAll().size(), 0u);
  EXPECT_THAT(empty.Finish(), IsOk());
}

TEST_F(TinyQueueTest, CancelDropsWhatWaitsAndOutlivesTheCall) {
  inference_.gate.Close();
  Call call(*stub_);
  for (const char* id : {"a", "b", "c", "d"}) call.Send(Item(id));
  inference_.gate.AwaitEntered();
  call.context.TryCancel();
  EXPECT_THAT(call.Finish(), StatusIs(absl::StatusCode::kCancelled));
  server_->Shutdown();  // Waits for the call; "a" stands at the gate.
  inference_.gate.Open();
  inference_.batcher.Shutdown();
  EXPECT_EQ(inference_.seen, 1);
}

TEST_F(TinyQueueTest, FullQueueSlowsAStreamDownAndRefusesNothing) {
  constexpr int kItems = 200;
  inference_.gate.Close();
  Call call(*stub_);
  call.Send(Item("first"));
  inference_.gate.AwaitEntered();
  std::thread writer([&] {
    for (int i = 1; i < kItems; ++i) call.Send(Item(absl::StrCat(i)));
    call.stream->WritesDone();
  });
  while (inference_.asked < 3) std::this_thread::yield();
  inference_.gate.Open();
  const auto answers = call.ReadAll();
  writer.join();
  EXPECT_THAT(call.Finish(), IsOk());
  ASSERT_EQ(answers.size(), size_t{kItems});
  for (const auto& [id, answer] : answers) {
    EXPECT_FALSE(answer.result().has_error()) << id;
  }
  EXPECT_GT(inference_.asked, kItems);  // The third was refused, for one.
}

TEST_F(TinyQueueTest, QueueFullOfOthersIsTriedAgainAfterEachDelay) {
  inference_.gate.Close();
  const auto classify = [this] {
    inference_.classifier.Classify({.images = {"bee"}}, [](const auto&) {});
  };
  classify();
  inference_.gate.AwaitEntered();
  classify();
  Call call(*stub_);
  call.Send(Item("a"));
  while (inference_.asked < 4) std::this_thread::yield();
  inference_.gate.Open();
  v1::ClassifyStreamResponse response;
  ASSERT_TRUE(call.stream->Read(&response));
  EXPECT_FALSE(response.result().has_error());
  call.stream->WritesDone();
  EXPECT_THAT(call.Finish(), IsOk());
}

TEST_F(TinyQueueTest, ClientClassifiesAFolderOverAPort) {
  constexpr int kFiles = 300;
  const testing::TempDir dir;
  for (int i = 0; i < kFiles; ++i) {
    dir.Write(absl::StrCat(i / 10, "/", i, ".jpg"), i == 7 ? "noise" : "bee");
  }
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  InferenceService service({.max_stream_items = kMaxItems},
                           inference_.classifier, inference_.calls,
                           authorizer_);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  Connection connection;
  connection.server = absl::StrCat("127.0.0.1:", port);
  ASSERT_THAT(Connect(connection), IsOk());
  std::ostringstream out, err;
  EXPECT_EQ(ClassifyPaths(connection, {dir.path()}, {}, out, err), kFailed);
  const std::string lines = out.str();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), kFiles);
  EXPECT_THAT(err.str(), ::testing::HasSubstr("0/7.jpg: not an image\n"));
  EXPECT_THAT(err.str(), ::testing::HasSubstr("images/s, 1 failed\n"));
}

TEST_F(ClassifyStreamTest, DeadlineEndsTheStream) {
  inference_.gate.Close();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(50));
  const auto stream = stub_->ClassifyStream(&context);
  stream->Write(Item("a"));
  v1::ClassifyStreamResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(FromGrpcStatus(stream->Finish()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(ClassifyStreamTest, EndOfStreamsAnswersWhatIsInFlight) {
  inference_.gate.Close();
  Call idle(*stub_), busy(*stub_), closed(*stub_);
  busy.Send(Item("a"));
  closed.Send(Item("b"));
  closed.stream->WritesDone();
  idle.Send(Item("c"));
  while (inference_.asked < 3) std::this_thread::yield();
  service_.EndStreams();
  inference_.gate.Open();
  for (Call* const call : {&idle, &busy}) {
    EXPECT_EQ(call->ReadAll().size(), 1u);
    const absl::Status status = call->Finish();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_TRUE(RetryDelayOf(status).has_value());
  }
  EXPECT_EQ(closed.ReadAll().size(), 1u);
  Call late(*stub_);
  EXPECT_THAT(late.Finish(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ClassifyStreamTest, ClassifierThatShutsDownEndsTheStream) {
  inference_.batcher.Shutdown();
  Call call(*stub_);
  call.Send(Item("a"));
  EXPECT_EQ(call.ReadAll().size(), 0u);
  EXPECT_THAT(call.Finish(), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace finetune
