#include "client/upload.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "archive.h"
#include "archive_entry.h"
#include "client/datasets.h"
#include "client/folder_archive.h"
#include "client/training.h"
#include "client/transfer_printer.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/dataset_service.grpc.pb.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

// "name=content" of each entry of a tar; folders end with '/'.
std::vector<std::string> EntriesOf(const std::string& tar) {
  std::vector<std::string> entries;
  archive* const a = archive_read_new();
  archive_read_support_format_tar(a);
  archive_read_open_memory(a, tar.data(), tar.size());
  archive_entry* entry = nullptr;
  while (archive_read_next_header(a, &entry) == ARCHIVE_OK) {
    EXPECT_EQ(archive_entry_mtime(entry), 0);
    EXPECT_EQ(archive_entry_uid(entry), 0);
    std::string content(static_cast<size_t>(archive_entry_size(entry)), '\0');
    archive_read_data(a, content.data(), content.size());
    const bool folder = archive_entry_filetype(entry) == AE_IFDIR;
    entries.push_back(std::string(archive_entry_pathname(entry)) +
                      (folder ? "" : "=" + content));
  }
  archive_read_free(a);
  return entries;
}

// Knows data sets by their checksum, and answers as a test tells it to.
class FakeDatasets final : public v1::DatasetService::Service {
 public:
  grpc::Status UploadDataset(
      grpc::ServerContext*,
      grpc::ServerReader<v1::UploadDatasetRequest>* reader,
      v1::UploadDatasetResponse* response) override {
    v1::UploadDatasetRequest request;
    reader->Read(&request);
    header = request.header();
    received.clear();
    response->set_existed(known == header.sha256());
    response->mutable_dataset()->set_id(header.sha256());
    response->mutable_dataset()->set_files(3);
    response->mutable_dataset()->set_bytes(1'500'000);
    if (response->existed()) return grpc::Status::OK;
    if (!refusal.ok()) return ToGrpcStatus(refusal);
    while (reader->Read(&request)) {
      EXPECT_LE(request.chunk().size(), 1u << 20);
      received += request.chunk();
    }
    return grpc::Status::OK;
  }
  grpc::Status ListDatasets(grpc::ServerContext*,
                            const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override {
    if (!list_status.ok()) return ToGrpcStatus(list_status);
    const bool first = request->page_token().empty();
    response->add_datasets()->set_name(first ? list_name : "old");
    if (first) response->set_next_page_token("more");
    return grpc::Status::OK;
  }
  grpc::Status DeleteDataset(grpc::ServerContext*,
                             const v1::DeleteDatasetRequest* request,
                             v1::DeleteDatasetResponse*) override {
    return request->id() == "abc"
               ? grpc::Status::OK
               : ToGrpcStatus(NoSuchResourceError("dataset", request->id()));
  }

  std::string known;     // Checksum.
  absl::Status refusal;  // After the header.
  absl::Status list_status;
  std::string list_name = "new";
  v1::UploadHeader header;
  std::string received;
};

// Takes data sets by their checksum alone.
class FakeTraining final : public v1::TrainingService::Service {
 public:
  grpc::Status StartFineTune(grpc::ServerContext*,
                             const v1::StartFineTuneRequest* request,
                             v1::StartFineTuneResponse* response) override {
    requests.push_back(*request);
    if (request->dataset().size() != 64) return ToGrpcStatus(refusal);
    response->mutable_job()->set_job_id("ft-1");
    return grpc::Status::OK;
  }

  absl::Status refusal = NoSuchResourceError("dataset", "pets");
  std::vector<v1::StartFineTuneRequest> requests;
};

class UploadTest : public ::testing::Test {
 protected:
  UploadTest() {
    dir_.Write("My Pets/train/cat/1.jpg", "cat one");
    dir_.Write("My Pets/train/bee/1.jpg", "bee one");
    dir_.Write("My Pets/test/bee/2.jpg", "bee two");
    grpc::ServerBuilder builder;
    builder.RegisterService(&datasets_);
    builder.RegisterService(&training_);
    // Not in process: there, a write to a call that was answered never ends.
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    server_ = builder.BuildAndStart();
    connection_.server = absl::StrCat("127.0.0.1:", port);
    EXPECT_THAT(Connect(connection_), IsOk());
  }

  static std::string Pack(const std::filesystem::path& folder) {
    const auto entries = ListFolder(folder);
    EXPECT_THAT(entries, IsOk());
    std::string tar;
    EXPECT_THAT(PackFolder(*entries,
                           [&](absl::string_view bytes) {
                             tar.append(bytes.data(), bytes.size());
                             return absl::OkStatus();
                           }),
                IsOk());
    return tar;
  }

  ExitCode Upload(const std::filesystem::path& path,
                  const UploadOptions& options = {}) {
    return UploadDataset(connection_, path, options, out_, err_);
  }

  const TempDir dir_;
  const std::filesystem::path folder_ = dir_.path() / "My Pets";
  FakeDatasets datasets_;
  FakeTraining training_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  std::ostringstream out_, err_;
};

TEST_F(UploadTest, FolderIsPackedInTheOrderOfItsNames) {
  EXPECT_THAT(EntriesOf(Pack(folder_)),
              ElementsAre("test/bee/", "test/bee/2.jpg=bee two", "train/bee/",
                          "train/bee/1.jpg=bee one", "train/cat/",
                          "train/cat/1.jpg=cat one"));
}

TEST_F(UploadTest, WhatNoServerWouldUseIsLeftOut) {
  const std::string before = Pack(folder_);
  dir_.Write("My Pets/notes.txt", "x");
  dir_.Write("My Pets/train/notes.txt", "x");
  dir_.Write("My Pets/train/.cache/1.jpg", "x");
  dir_.Write("My Pets/train/bee/.hidden.jpg", "x");
  dir_.Write("My Pets/train/bee/.git/1.jpg", "x");
  dir_.Write("My Pets/val/bee/2.jpg", "there is test/");
  std::filesystem::create_symlink("nowhere", folder_ / "train/bee/dangling");
  EXPECT_EQ(Pack(folder_), before);
}

TEST_F(UploadTest, SameFolderElsewhereAndLaterGivesTheSameBytes) {
  std::filesystem::copy(folder_, dir_.path() / "copy",
                        std::filesystem::copy_options::recursive);
  std::filesystem::last_write_time(dir_.path() / "copy/train/bee/1.jpg", {});
  std::filesystem::permissions(dir_.path() / "copy/train/bee/1.jpg",
                               std::filesystem::perms::owner_all);
  EXPECT_EQ(Pack(folder_), Pack(dir_.path() / "copy"));
}

TEST_F(UploadTest, LinksAreFollowedAndValServesWhereThereIsNoTest) {
  std::filesystem::create_directories(dir_.path() / "linked/train");
  std::filesystem::create_directories(dir_.path() / "linked/val/bee");
  std::filesystem::create_directory_symlink(folder_ / "train/bee",
                                            dir_.path() / "linked/train/bee");
  std::filesystem::create_symlink(folder_ / "test/bee/2.jpg",
                                  dir_.path() / "linked/val/bee/2.jpg");
  EXPECT_THAT(EntriesOf(Pack(dir_.path() / "linked")),
              ElementsAre("train/bee/", "train/bee/1.jpg=bee one", "val/bee/",
                          "val/bee/2.jpg=bee two"));
}

TEST_F(UploadTest, LongAndForeignNamesSurvive) {
  const std::string name = std::string(200, 'n') + "\xc3\xa9\xff.jpg";
  dir_.Write(
      "My Pets/train/K\xc3\xa4"
      "fer/" +
          name,
      "x");
  EXPECT_THAT(EntriesOf(Pack(folder_)), ::testing::Contains("train/K\xc3\xa4"
                                                            "fer/" +
                                                            name + "=x"));
}

TEST_F(UploadTest, FolderIsSentWhole) {
  dir_.Write("My Pets/train/bee/large.bmp", std::string(3 << 20, 'x'));
  EXPECT_EQ(Upload(folder_), kDone);
  EXPECT_EQ(datasets_.received, Pack(folder_));
  EXPECT_EQ(datasets_.header.sha256(), Sha256Hex(datasets_.received));
  EXPECT_EQ(datasets_.header.name(), "My Pets");
  EXPECT_THAT(out_.str(), HasSubstr("sending " + folder_.string()));
  EXPECT_THAT(out_.str(), HasSubstr("data set " + datasets_.header.sha256() +
                                    "\n3 files, 1.5 MB\n"));
}

TEST_F(UploadTest, ArchiveIsSentAsItIs) {
  const auto file = dir_.Write("pets.zip", std::string(700'000, 'z'));
  EXPECT_EQ(Upload(file, {.name = "my zip"}), kDone);
  EXPECT_EQ(datasets_.received, std::string(700'000, 'z'));
  EXPECT_EQ(datasets_.header.name(), "my zip");
}

TEST_F(UploadTest, KnownDatasetIsNotSentAgain) {
  datasets_.known = Sha256Hex(Pack(folder_));
  EXPECT_EQ(Upload(folder_), kDone);
  EXPECT_EQ(datasets_.received, "");
  EXPECT_THAT(out_.str(), HasSubstr("the server had it already"));
}

TEST_F(UploadTest, RefusalBreaksOffAndIsShown) {
  dir_.Write("My Pets/train/bee/large.bmp", std::string(9 << 20, 'x'));
  datasets_.refusal = RetryAfter(
      absl::ResourceExhaustedError("4 uploads go on"), absl::Seconds(30));
  EXPECT_EQ(Upload(folder_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: 4 uploads go on\nTry again in 30 s.\n");
}

TEST_F(UploadTest, WhatIsNoDatasetIsNotSent) {
  EXPECT_EQ(Upload(dir_.path() / "none"), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("none is neither a folder nor a file"));
  EXPECT_EQ(Upload(dir_.path()), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("has no folder train/<class>/"));
  std::filesystem::remove_all(folder_ / "test");
  EXPECT_EQ(Upload(folder_), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("neither test/<class>/ nor val/"));
  EXPECT_EQ(datasets_.header.name(), "");
}

TEST_F(UploadTest, FileThatShrinksIsReported) {
  const auto entries = ListFolder(folder_);
  std::filesystem::remove(folder_ / "train/bee/1.jpg");
  EXPECT_THAT(PackFolder(*entries, [](auto) { return absl::OkStatus(); }),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(UploadTest, JsonIsTheResponseAlone) {
  connection_.json = true;
  EXPECT_EQ(Upload(folder_), kDone);
  EXPECT_EQ(out_.str(), "{\"dataset\":{\"id\":\"" + datasets_.header.sha256() +
                            "\",\"files\":\"3\",\"bytes\":\"1500000\"}}\n");
}

TEST_F(UploadTest, ServerThatIsNotThereIsExitCodeThree) {
  connection_.server = "127.0.0.1:1";
  ASSERT_THAT(Connect(connection_), IsOk());
  EXPECT_EQ(Upload(folder_), kUnreachable);
  EXPECT_EQ(ListDatasets(connection_, out_, err_), kUnreachable);
}

TEST_F(UploadTest, StartUploadsALocalFolderThatTheServerDoesNotKnow) {
  v1::StartFineTuneRequest request;
  request.set_dataset(folder_.string() + "/");
  for (const absl::Status& refusal :
       {NoSuchResourceError("dataset", "x"),
        absl::PermissionDeniedError("out of the data root")}) {
    training_.refusal = refusal;
    training_.requests.clear();
    EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kDone);
    ASSERT_EQ(training_.requests.size(), 2u);
    EXPECT_EQ(training_.requests[1].dataset(), datasets_.header.sha256());
    EXPECT_EQ(training_.requests[1].model_name(), "my-pets");
    EXPECT_THAT(out_.str(), HasSubstr("uploaded as data set"));
    EXPECT_THAT(out_.str(), HasSubstr("job ft-1"));
  }
}

TEST_F(UploadTest, WhoMayNotUploadIsToldBeforeTheFolderIsRead) {
  datasets_.list_status = absl::PermissionDeniedError("may only classify");
  training_.refusal = datasets_.list_status;
  // Whoever reads the folder finds that it is no data set.
  std::filesystem::remove_all(folder_ / "test");
  v1::StartFineTuneRequest request;
  request.set_dataset(folder_.string());
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kFailed);
  EXPECT_EQ(Upload(folder_), kFailed);
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(err_.str(),
            "finetune: may only classify\nfinetune: may only classify\n");
}

TEST_F(UploadTest, LocalFolderThatGivesNoModelNameIsNotSent) {
  const auto dogs = dir_.path() / "\xe7\x8a\xac";
  std::filesystem::rename(folder_, dogs);
  v1::StartFineTuneRequest request;
  request.set_dataset(dogs / ".");
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--name"));
  EXPECT_EQ(datasets_.header.name(), "");
  request.set_model_name("dogs");
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kDone);
  EXPECT_EQ(training_.requests.back().model_name(), "dogs");
}

TEST_F(UploadTest, PathsAndNamesCannotDrawOnTheTerminal) {
  const auto drawing = dir_.path() / "a\x1b[2J\nb";
  std::filesystem::rename(folder_, drawing);
  datasets_.list_name = "a\x1b[2J\nb";
  v1::StartFineTuneRequest request;
  request.set_dataset(drawing.string());
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kDone);
  EXPECT_EQ(Upload(drawing), kDone);
  EXPECT_EQ(Upload(dir_.path() / "n\x1b[2J\nb"), kFailed);
  EXPECT_EQ(ListDatasets(connection_, out_, err_), kDone);
  EXPECT_EQ(DeleteDataset(connection_, "n\x1b[2J\nb", out_, err_), kFailed);
  EXPECT_THAT(out_.str(), HasSubstr("/a\\x1b[2J\\nb, "));
  EXPECT_THAT(out_.str(), HasSubstr("  a\\x1b[2J\\nb\n"));
  EXPECT_THAT(err_.str(), HasSubstr("n\\x1b[2J\\nb is neither"));
  EXPECT_THAT(err_.str(), HasSubstr("\"n\\x1b[2J\\nb\"\n"));
  EXPECT_EQ((out_.str() + err_.str()).find('\x1b'), std::string::npos);
}

TEST_F(UploadTest, StartUploadsNothingElse) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");  // No such folder here.
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kFailed);
  request.set_dataset(folder_.string());
  training_.refusal = absl::InvalidArgumentError("epochs must be 1..1000");
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kFailed);
  EXPECT_EQ(training_.requests.size(), 2u);
  EXPECT_EQ(datasets_.header.name(), "");
}

TEST_F(UploadTest, StartJsonIsTheJobAlone) {
  connection_.json = true;
  v1::StartFineTuneRequest request;
  request.set_dataset(folder_.string());
  request.set_model_name("mine");
  EXPECT_EQ(StartJob(connection_, request, false, {}, out_, err_), kDone);
  EXPECT_EQ(out_.str(), "{\"job\":{\"job_id\":\"ft-1\"}}\n");
  EXPECT_EQ(training_.requests[1].model_name(), "mine");
}

TEST_F(UploadTest, AllPagesAreListed) {
  EXPECT_EQ(ListDatasets(connection_, out_, err_), kDone);
  EXPECT_LT(out_.str().find("new"), out_.str().find("old"));
}

TEST_F(UploadTest, DeletionSaysWhatHappened) {
  EXPECT_EQ(DeleteDataset(connection_, "abc", out_, err_), kDone);
  EXPECT_EQ(out_.str(), "deleted abc\n");
  EXPECT_EQ(DeleteDataset(connection_, "x", out_, err_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: no dataset \"x\"\n");
}

TEST(ModelNameOfTest, FollowsTheServersRule) {
  EXPECT_EQ(ModelNameOf("/data/My_Pets 2"), "my-pets-2");
  EXPECT_EQ(ModelNameOf("/data/" + std::string(100, 'x')).size(), 63u);
}

TEST(GivesModelNameTest, NeedsAnAsciiLetterOrDigit) {
  for (const char* name : {"pets", "2024", "/data/Pets/",
                           "K\xc3\xa4"
                           "fer",
                           "", "/", ".."}) {
    EXPECT_TRUE(GivesModelName(name)) << name;
  }
  for (const char* name : {"---", "\xe7\x8a\xac", "pets/\xe7\x8a\xac/"}) {
    EXPECT_FALSE(GivesModelName(name)) << name;
  }
  EXPECT_FALSE(GivesModelName(std::string(63, '_') + "pets"));
}

TEST(TransferPrinterTest, BarShowsBytesSpeedAndEta) {
  std::ostringstream out;
  {
    TransferPrinter printer(10'000'000, 80, out);
    const absl::Time begin = absl::UnixEpoch();
    printer.Print(0, begin);
    printer.Print(2'500'000, begin + absl::Milliseconds(100));  // Too soon.
    printer.Print(2'500'000, begin + absl::Seconds(1));
  }
  EXPECT_EQ(out.str(),
            "\r\033[K[..............................] 0 bytes of 10.0 MB"
            "\r\033[K[#######.......................] 2.5 MB of 10.0 MB  "
            "2.5 MB/s  ETA 0:03"
            "\r\033[K");
}

TEST(TransferPrinterTest, NothingIsDrawnElsewhereAndLittleOnANarrowTerminal) {
  std::ostringstream out;
  {
    TransferPrinter printer(10, 0, out);
    printer.Print(5);
  }
  EXPECT_EQ(out.str(), "");
  {
    TransferPrinter printer(10, 12, out);
    printer.Print(5);
  }
  EXPECT_EQ(out.str(), "\r\033[K5 bytes of \r\033[K");
}

}  // namespace
}  // namespace finetune
