#include "server/service/dataset_service.h"

#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "client/connection.h"
#include "client/upload.h"
#include "common/file.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "server/data/image_folder.h"
#include "server/datasets/testing/test_archive.h"

namespace finetune {
namespace {

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

v1::UploadDatasetRequest Header(const std::string& name,
                                const std::string& sha256) {
  v1::UploadDatasetRequest request;
  request.mutable_header()->set_name(name);
  request.mutable_header()->set_sha256(sha256);
  return request;
}

v1::UploadDatasetRequest Chunk(const std::string& bytes) {
  v1::UploadDatasetRequest request;
  request.set_chunk(bytes);
  return request;
}

// The real service and store, over a channel that needs no port.
class DatasetServiceTest : public ::testing::Test {
 protected:
  // One call, driven by hand.
  struct Call {
    explicit Call(v1::DatasetService::Stub& stub)
        : writer(stub.UploadDataset(&context, &response)) {}

    absl::Status Finish() {
      writer->WritesDone();
      return FromGrpcStatus(writer->Finish());
    }

    grpc::ClientContext context;
    v1::UploadDatasetResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::UploadDatasetRequest>> writer;
  };

  DatasetServiceTest() { Serve(); }

  // Anew, with the options as they are.
  void Serve() {
    server_.reset();
    service_.reset();
    store_.reset();
    store_ = *DatasetStore::Open(store_options_, *database_);
    service_ = std::make_unique<DatasetService>(options_, *store_, authorizer_);
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::DatasetService::NewStub(server_->InProcessChannel({}));
  }

  absl::StatusOr<v1::UploadDatasetResponse> Send(
      const std::vector<v1::UploadDatasetRequest>& messages) {
    Call call(*stub_);
    for (const auto& message : messages) {
      if (!call.writer->Write(message)) break;
    }
    const absl::Status status = call.Finish();
    if (!status.ok()) return status;
    return call.response;
  }
  absl::StatusOr<v1::UploadDatasetResponse> Upload(const std::string& bytes,
                                                   size_t piece = 1000) {
    std::vector<v1::UploadDatasetRequest> messages = {
        Header("pets", Sha256Hex(bytes))};
    for (size_t at = 0; at < bytes.size(); at += piece) {
      messages.push_back(Chunk(bytes.substr(at, piece)));
    }
    return Send(messages);
  }

  absl::StatusOr<v1::ListDatasetsResponse> List(int page_size,
                                                const std::string& token = "") {
    grpc::ClientContext context;
    v1::ListDatasetsRequest request;
    request.set_page_size(page_size);
    request.set_page_token(token);
    v1::ListDatasetsResponse response;
    const absl::Status status =
        FromGrpcStatus(stub_->ListDatasets(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  absl::Status Delete(const std::string& id) {
    grpc::ClientContext context;
    v1::DeleteDatasetRequest request;
    request.set_id(id);
    v1::DeleteDatasetResponse response;
    return FromGrpcStatus(stub_->DeleteDataset(&context, request, &response));
  }

  std::vector<std::string> Names() const {
    return testing::NamesIn(store_options_.dir);
  }
  void AwaitNames(const std::vector<std::string>& expected) const {
    while (Names() != expected) std::this_thread::yield();
  }

  const TempDir dir_;
  DatasetStore::Options store_options_{.dir = dir_.path() / "datasets"};
  DatasetService::Options options_;
  const Authorizer authorizer_;  // Allows all.
  const std::unique_ptr<Database> database_ =
      *Database::Open(dir_.path() / "state.db");
  std::unique_ptr<DatasetStore> store_;
  std::unique_ptr<DatasetService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::DatasetService::Stub> stub_;
};

TEST_F(DatasetServiceTest, ArchiveBecomesADataset) {
  auto entries = SmallDataset();
  entries.push_back({"train/bee/large.bmp", std::string(3 << 20, 'x')});
  const std::string bytes = MakeArchive(entries);
  const auto response = Upload(bytes, 100'000);
  ASSERT_THAT(response, IsOk());
  EXPECT_FALSE(response->existed());
  EXPECT_EQ(response->dataset().id(), Sha256Hex(bytes));
  EXPECT_EQ(response->dataset().name(), "pets");
  EXPECT_EQ(response->dataset().files(), 4);
  EXPECT_GT(response->dataset().create_time().seconds(), 0);
  EXPECT_EQ(ReadFile(store_->PathOf(Sha256Hex(bytes)) / "train/bee/large.bmp",
                     4 << 20)
                ->size(),
            3u << 20);
}

TEST_F(DatasetServiceTest, KnownArchiveIsAnsweredBeforeItsFirstChunk) {
  options_.max_uploads = 1;
  Serve();
  const std::string bytes = MakeArchive(SmallDataset());
  ASSERT_THAT(Upload(bytes), IsOk());
  Call busy(*stub_);
  busy.writer->Write(Header("other", std::string(64, 'a')));
  while (Names().size() < 2) std::this_thread::yield();  // It has begun.

  Call call(*stub_);
  std::string upper = Sha256Hex(bytes);
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  call.writer->Write(Header("again", upper));
  // No WritesDone: the answer comes on its own.
  ASSERT_THAT(FromGrpcStatus(call.writer->Finish()), IsOk());
  EXPECT_TRUE(call.response.existed());
  EXPECT_EQ(call.response.dataset().name(), "pets");
  busy.context.TryCancel();
}

TEST_F(DatasetServiceTest, FirstMessageMustBeAHeader) {
  for (const auto& messages :
       std::vector<std::vector<v1::UploadDatasetRequest>>{
           {}, {Chunk("x")}, {v1::UploadDatasetRequest()}}) {
    const absl::Status status = Send(messages).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(HasDetail<google::rpc::BadRequest>(status));
    EXPECT_THAT(status.message(),
                HasSubstr("header must be the first message"));
  }
}

TEST_F(DatasetServiceTest, HeaderOutOfItsRangeIsNamed) {
  const std::string sha256(64, 'a');
  const std::vector<std::pair<std::string, v1::UploadDatasetRequest>> bad = {
      {"header.name", Header("", sha256)},
      {"header.name", Header(std::string(256, 'n'), sha256)},
      {"header.sha256", Header("pets", "")},
      {"header.sha256", Header("pets", std::string(63, 'a'))},
      {"header.sha256", Header("pets", std::string(64, 'g'))},
      {"header.sha256", Header("pets", "../" + std::string(61, 'a'))}};
  for (const auto& [field, message] : bad) {
    const absl::Status status = Send({message}).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(HasDetail<google::rpc::BadRequest>(status));
    EXPECT_THAT(status.message(), HasSubstr(field));
  }
}

TEST_F(DatasetServiceTest, MessageThatIsNoChunkEndsTheUpload) {
  const auto header = Header("pets", std::string(64, 'a'));
  for (const auto& message : {Chunk(""), Chunk(std::string((1 << 20) + 1, 'x')),
                              header, v1::UploadDatasetRequest()}) {
    const absl::Status status = Send({header, message}).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(HasDetail<google::rpc::BadRequest>(status));
    EXPECT_THAT(status.message(), HasSubstr("chunk must be 1..1048576 bytes"));
  }
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetServiceTest, BrokenArchiveIsAnsweredWhileTheCallerStillSends) {
  Call call(*stub_);
  call.writer->Write(Header("pets", std::string(64, 'a')));
  while (call.writer->Write(Chunk(std::string(1000, 'x')))) {
  }
  EXPECT_THAT(FromGrpcStatus(call.writer->Finish()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetServiceTest, WrongChecksumIsInvalid) {
  const std::string bytes = MakeArchive(SmallDataset());
  EXPECT_THAT(Send({Header("pets", std::string(64, 'a')), Chunk(bytes)}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetServiceTest, ArchiveWithoutADatasetIsAFailedPrecondition) {
  EXPECT_THAT(Upload(MakeArchive({{"readme.txt", "nothing here"}})),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(DatasetServiceTest, CallerWhoGoesAwayLeavesNoTrace) {
  {
    Call call(*stub_);
    call.writer->Write(Header("pets", std::string(64, 'a')));
    call.writer->Write(Chunk(MakeArchive(SmallDataset()).substr(0, 2000)));
    while (Names().empty()) std::this_thread::yield();
    call.context.TryCancel();
    EXPECT_THAT(FromGrpcStatus(call.writer->Finish()),
                StatusIs(absl::StatusCode::kCancelled));
  }
  AwaitNames({});
}

TEST_F(DatasetServiceTest, CallerWhoStallsIsLetGo) {
  store_options_.idle_timeout = absl::Milliseconds(1);
  Serve();
  Call call(*stub_);
  call.writer->Write(Header("pets", std::string(64, 'a')));
  EXPECT_THAT(FromGrpcStatus(call.writer->Finish()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetServiceTest, CallerWhoSendsNoHeaderIsLetGo) {
  options_.header_timeout = absl::Milliseconds(1);
  Serve();
  Call call(*stub_);
  EXPECT_THAT(FromGrpcStatus(call.writer->Finish()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(DatasetServiceTest, OneUploadTooManyIsToldWhenToRetry) {
  options_.max_uploads = 1;
  Serve();
  const std::string bytes = MakeArchive(SmallDataset());
  {
    Call first(*stub_);
    first.writer->Write(Header("pets", std::string(64, 'a')));
    while (Names().empty()) std::this_thread::yield();
    const absl::Status status = Upload(bytes).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(status));
    first.context.TryCancel();
  }
  // Its place is free soon after.
  while (absl::IsResourceExhausted(Upload(bytes).status())) {
    std::this_thread::yield();
  }
  EXPECT_EQ(List(0)->datasets_size(), 1);
}

TEST_F(DatasetServiceTest, ShutdownEndsUploads) {
  Call call(*stub_);
  call.writer->Write(Header("pets", std::string(64, 'a')));
  while (Names().empty()) std::this_thread::yield();
  server_->Shutdown(std::chrono::system_clock::now());
  EXPECT_FALSE(call.Finish().ok());
  server_.reset();
  service_.reset();
  store_.reset();
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DatasetServiceTest, PagesAreListedAndBadOnesRefused) {
  for (const char* name : {"a", "b"}) {
    auto entries = SmallDataset();
    entries.push_back({name, ""});
    ASSERT_THAT(Upload(MakeArchive(entries)), IsOk());
  }
  const auto page = List(1);
  ASSERT_THAT(page, IsOk());
  EXPECT_EQ(page->datasets_size(), 1);
  EXPECT_EQ(List(1, page->next_page_token())->datasets_size(), 1);
  EXPECT_EQ(List(0)->datasets_size(), 2);
  for (const int bad : {-1, 101}) {
    EXPECT_THAT(List(bad), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(List(1, "?"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DatasetServiceTest, DeletedDatasetIsGone) {
  const auto response = Upload(MakeArchive(SmallDataset()));
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(Delete(response->dataset().id()), IsOk());
  EXPECT_THAT(Delete(response->dataset().id()),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Delete("../x"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(List(0)->datasets_size(), 0);
}

// The same over a port: flow control and early answers are the transport's.
class DatasetServicePortTest : public DatasetServiceTest {
 protected:
  DatasetServicePortTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&port_service_);
    port_server_ = builder.BuildAndStart();
    connection_.server = "127.0.0.1:" + std::to_string(port);
    EXPECT_THAT(Connect(connection_), IsOk());
  }

  DatasetService port_service_{{}, *store_, authorizer_};
  std::unique_ptr<grpc::Server> port_server_;
  Connection connection_;
};

TEST_F(DatasetServicePortTest, UploadsGoOnSideBySide) {
  const auto stub = v1::DatasetService::NewStub(connection_.channel);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&stub, i] {
      auto entries = SmallDataset();
      entries.push_back({"n", std::string(2'000'000, static_cast<char>(i))});
      const std::string bytes = MakeArchive(entries);
      Call call(*stub);
      call.writer->Write(Header("pets", Sha256Hex(bytes)));
      for (size_t at = 0; at < bytes.size(); at += 50'000) {
        call.writer->Write(Chunk(bytes.substr(at, 50'000)));
      }
      EXPECT_THAT(call.Finish(), IsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(List(0)->datasets_size(), 4);
}

TEST_F(DatasetServicePortTest, ClientsFolderIsTakenOnceAndThenKnown) {
  for (const testing::TestEntry& entry : SmallDataset("My Pets/")) {
    dir_.Write(entry.path, entry.content);
  }
  dir_.Write(
      "My Pets/train/K\xc3\xa4"
      "fer/" +
          std::string(200, 'n'),
      "x");
  dir_.Write("My Pets/train/bee/large.bmp", std::string(30 << 20, 'x'));
  std::ostringstream out;
  const auto first = UploadFolderOrArchive(connection_, dir_.path() / "My Pets",
                                           {.terminal_width = 80}, out);
  ASSERT_THAT(first, IsOk());
  EXPECT_FALSE(first->existed());
  EXPECT_EQ(first->dataset().name(), "My Pets");
  EXPECT_EQ(first->dataset().files(), 5);
  EXPECT_THAT(OpenImageFolder(store_->PathOf(first->dataset().id()))->classes,
              ElementsAre("K\xc3\xa4"
                          "fer",
                          "ant", "bee"));
  const auto again =
      UploadFolderOrArchive(connection_, dir_.path() / "My Pets", {}, out);
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->existed());
}

TEST_F(DatasetServicePortTest, ClientStopsWhereTheServerRefuses) {
  const auto file =
      dir_.Write("no.tar", std::string(30 << 20, 'x'));  // No archive at all.
  std::ostringstream out;
  EXPECT_THAT(UploadFolderOrArchive(connection_, file, {}, out),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Names(), IsEmpty());
}

}  // namespace
}  // namespace finetune
