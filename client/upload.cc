#include "client/upload.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/folder_archive.h"
#include "client/transfer_printer.h"
#include "common/grpc_status.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "finetune/v1/dataset_service.grpc.pb.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = 256 << 10;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxModelNameBytes = 63;

// Gives all of an archive to a sink, the same bytes each time.
using SourceFn = std::function<absl::Status(const SinkFn& sink)>;

absl::Status ReadArchive(const fs::path& path, const SinkFn& sink) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> piece(kPieceBytes);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    const auto size = static_cast<size_t>(file.gcount());
    if (size > 0) RETURN_IF_ERROR(sink({piece.data(), size}));
  }
  if (file.eof()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("read ", path.native()));
}

absl::StatusOr<SourceFn> Open(const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    return SourceFn(
        [path](const SinkFn& sink) { return ReadArchive(path, sink); });
  }
  if (!fs::is_directory(path, error)) {
    return absl::NotFoundError(
        absl::StrCat(path.native(), " is neither a folder nor a file"));
  }
  ASSIGN_OR_RETURN(std::vector<FolderEntry> entries, ListFolder(path));
  return SourceFn([entries = std::move(entries)](const SinkFn& sink) {
    return PackFolder(entries, sink);
  });
}

// Of "pets/", also where it is not here, and of ".", too.
std::string NameOf(const fs::path& path) {
  std::error_code error;
  const fs::path full = fs::canonical(path, error);
  if (!error) return full.filename().native();
  return (path / "").lexically_normal().parent_path().filename().native();
}

struct Archive {
  SourceFn source;
  std::string sha256;
  uint64_t bytes = 0;
};

absl::StatusOr<Archive> Hash(const fs::path& path) {
  Archive archive;
  ASSIGN_OR_RETURN(archive.source, Open(path));
  Sha256 sha256;
  RETURN_IF_ERROR(archive.source([&](absl::string_view bytes) {
    sha256.Add(bytes);
    archive.bytes += bytes.size();
    return absl::OkStatus();
  }));
  archive.sha256 = sha256.Hex();
  return archive;
}

std::string DatasetName(const fs::path& path, const UploadOptions& options) {
  std::string name = options.name;
  if (name.empty()) {
    // Twice, since a cut may split a character and escapes lengthen.
    name = ToUtf8(NameOf(path).substr(0, kMaxNameBytes));
    name.resize(std::min(name.size(), kMaxNameBytes));
  }
  return name;
}

// Lets Ctrl-C end the program also where BlockInterrupt keeps it for a watch.
class InterruptAllowed {
 public:
  InterruptAllowed() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, &before_);
  }
  ~InterruptAllowed() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  InterruptAllowed(const InterruptAllowed&) = delete;
  InterruptAllowed& operator=(const InterruptAllowed&) = delete;

 private:
  sigset_t before_;
};

// Sends the archive, for as long as the server takes it.
class Sender {
 public:
  explicit Sender(const Connection& connection)
      : stub_(v1::DatasetService::NewStub(connection.channel)),
        writer_(Begin(connection)) {}

  // False: the server has answered already.
  bool Send(const v1::UploadDatasetRequest& request) {
    return writer_->Write(request);
  }

  // Breaks the call off: the server keeps nothing of it.
  void GiveUp() {
    context_.TryCancel();
    writer_->Finish();
  }

  absl::StatusOr<v1::UploadDatasetResponse> Finish() {
    writer_->WritesDone();
    RETURN_IF_ERROR(FromGrpcStatus(writer_->Finish()));
    return response_;
  }

 private:
  using Writer = grpc::ClientWriter<v1::UploadDatasetRequest>;

  std::unique_ptr<Writer> Begin(const Connection& connection) {
    connection.PrepareStream(context_);
    return stub_->UploadDataset(&context_, &response_);
  }

  const std::unique_ptr<v1::DatasetService::Stub> stub_;
  grpc::ClientContext context_;
  v1::UploadDatasetResponse response_;
  const std::unique_ptr<Writer> writer_;
};

// An answer that comes before the archive's end stops the source with this.
absl::Status Answered() { return absl::CancelledError("answered"); }

void PrintDataset(const v1::UploadDatasetResponse& response,
                  std::ostream& out) {
  const v1::Dataset& dataset = response.dataset();
  out << "data set " << ToPrintable(dataset.id()) << "\n"
      << dataset.files() << " files, "
      << ByteText(static_cast<uint64_t>(dataset.bytes()))
      << (response.existed() ? "; the server had it already" : "") << std::endl;
}

}  // namespace

absl::StatusOr<v1::UploadDatasetResponse> UploadFolderOrArchive(
    const Connection& connection, const fs::path& path,
    const UploadOptions& options, std::ostream& out) {
  const InterruptAllowed interrupt;
  ASSIGN_OR_RETURN(const Archive archive, Hash(path));
  out << "sending " << ToPrintable(path.native()) << ", "
      << ByteText(archive.bytes) << std::endl;
  Sender sender(connection);
  v1::UploadDatasetRequest request;
  request.mutable_header()->set_name(DatasetName(path, options));
  request.mutable_header()->set_sha256(archive.sha256);
  bool answered = !sender.Send(request);
  if (!answered) {
    TransferPrinter printer(archive.bytes, options.terminal_width, out);
    uint64_t sent = 0;
    printer.Print(sent);
    const absl::Status status = archive.source([&](absl::string_view bytes) {
      request.set_chunk(bytes.data(), bytes.size());
      answered = !sender.Send(request);
      if (answered) return Answered();
      printer.Print(sent += bytes.size());
      return absl::OkStatus();
    });
    if (!status.ok() && !answered) {
      sender.GiveUp();
      return status;
    }
  }
  return sender.Finish();
}

absl::Status CheckMayUpload(const Connection& connection) {
  const auto stub = v1::DatasetService::NewStub(connection.channel);
  v1::ListDatasetsRequest request;
  request.set_page_size(1);
  v1::ListDatasetsResponse response;
  return Call(connection, *stub, &v1::DatasetService::Stub::ListDatasets,
              request, response);
}

ExitCode UploadDataset(const Connection& connection, const fs::path& path,
                       const UploadOptions& options, std::ostream& out,
                       std::ostream& err) {
  if (const absl::Status may = CheckMayUpload(connection); !may.ok()) {
    return PrintError(connection, may, err);
  }
  UploadOptions printed = options;
  if (connection.json) printed.terminal_width = 0;
  const auto response = UploadFolderOrArchive(connection, path, printed,
                                              connection.json ? err : out);
  if (!response.ok()) {
    return PrintError(connection, response.status(), err);
  }
  if (connection.json) {
    PrintJson(*response, out);
  } else {
    PrintDataset(*response, out);
  }
  return kDone;
}

bool IsDatasetFolder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path / "train", ignored);
}

std::string ModelNameOf(const fs::path& folder) {
  std::string name = absl::AsciiStrToLower(NameOf(folder));
  name.resize(std::min(name.size(), kMaxModelNameBytes));
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return !absl::ascii_islower(c) && !absl::ascii_isdigit(c); },
      '-');
  return name;
}

bool GivesModelName(const fs::path& folder) {
  const std::string name = NameOf(folder);
  return name.empty() || name == "." || name == ".." ||
         ModelNameOf(folder).find_first_not_of('-') != std::string::npos;
}

}  // namespace finetune
