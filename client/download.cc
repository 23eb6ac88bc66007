#include "client/download.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/job_text.h"
#include "client/transfer_printer.h"
#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "nlohmann/json.hpp"

namespace finetune {
namespace {

namespace fs = std::filesystem;

// While it lives, a signal that ends the program removes a file first. One at
// a time.
class RemovalOnSignal {
 public:
  // `path` must outlive this.
  explicit RemovalOnSignal(const char* path) {
    path_ = path;
    struct sigaction action = {};
    action.sa_handler = [](int signal_number) {
      unlink(path_);
      raise(signal_number);  // Comes when this returns, and ends the program.
    };
    action.sa_flags = SA_RESETHAND;
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], nullptr, &before_[i]);
      // nohup's SIGHUP stays ignored.
      if (before_[i].sa_handler == SIG_IGN) continue;
      sigaction(kSignals[i], &action, nullptr);
    }
  }
  ~RemovalOnSignal() {
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], &before_[i], nullptr);
    }
  }
  RemovalOnSignal(const RemovalOnSignal&) = delete;
  RemovalOnSignal& operator=(const RemovalOnSignal&) = delete;

 private:
  static constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};
  static inline std::atomic<const char*> path_ = nullptr;

  std::array<struct sigaction, kSignals.size()> before_ = {};
};

// FILE.part, until Publish makes it FILE; gone without.
class PartFile {
 public:
  explicit PartFile(const fs::path& file)
      : file_(fs::absolute(file)),
        part_(file_.native() + ".part"),
        removal_(part_.c_str()),
        fd_(open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                 0644)) {}
  ~PartFile() {
    if (fd_ < 0) return;
    close(fd_);
    unlink(part_.c_str());  // Fails where it was published.
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  absl::Status status() const {
    return fd_ < 0 ? Error("create") : absl::OkStatus();
  }

  absl::Status Write(absl::string_view bytes) {
    return WriteAll(fd_, bytes, part_);
  }

  absl::Status Publish() {
    if (fsync(fd_) != 0) return Error("sync");
    return RenameDurably(part_, file_);
  }

 private:
  absl::Status Error(const char* verb) const {
    return absl::ErrnoToStatus(errno, absl::StrCat(verb, " ", part_.native()));
  }

  const fs::path file_, part_;
  const RemovalOnSignal removal_;
  const int fd_;
};

// What the server holds under that name: the version that is then downloaded.
absl::StatusOr<v1::Model> Resolve(const Connection& connection,
                                  v1::ModelService::Stub& stub,
                                  const v1::ModelRef& model) {
  v1::GetModelRequest request;
  *request.mutable_model() = model;
  v1::GetModelResponse response;
  RETURN_IF_ERROR(Call(connection, stub, &v1::ModelService::Stub::GetModel,
                       request, response));
  // A file is named by it.
  const std::string& name = response.model().ref().name();
  if (name.empty() || absl::StrContains(name, '/') || name.front() == '.') {
    return absl::InternalError(absl::StrCat(
        "the server calls the model \"", name, "\", which is no name of one"));
  }
  return response.model();
}

fs::path DefaultFile(const v1::ModelRef& model, v1::ModelFormat format) {
  return absl::StrCat(
      model.name(), "-", model.version(),
      format == v1::MODEL_FORMAT_ONNX ? ".onnx" : ".safetensors");
}

struct Received {
  uint64_t bytes = 0;
  std::string sha256;
};

absl::Status DamagedError() {
  return absl::DataLossError("what came is not what the server sent");
}

// Writes what comes to `part`, until it ends or cannot be written.
absl::StatusOr<Received> Receive(
    grpc::ClientReader<v1::DownloadModelResponse>& reader, int terminal_width,
    std::ostream& err, PartFile& part) {
  Received received;
  Sha256 sha256;
  v1::DownloadModelResponse response;
  if (!reader.Read(&response)) return received;  // Finish says why.
  const auto total = static_cast<uint64_t>(response.total_bytes());
  TransferPrinter printer(total, terminal_width, err);
  do {
    received.bytes += response.chunk().size();
    if (received.bytes > total) return DamagedError();
    sha256.Add(response.chunk());
    RETURN_IF_ERROR(part.Write(response.chunk()));
    printer.Print(received.bytes);
    received.sha256 = response.sha256();
  } while (reader.Read(&response));
  // Where it is empty the call has failed, which Finish says.
  if (!received.sha256.empty() && received.sha256 != sha256.Hex()) {
    return DamagedError();
  }
  return received;
}

absl::StatusOr<Received> Download(const Connection& connection,
                                  v1::ModelService::Stub& stub,
                                  const v1::DownloadModelRequest& request,
                                  const fs::path& file,
                                  const DownloadOptions& options,
                                  std::ostream& err) {
  std::error_code ignored;
  if (!options.force && fs::exists(file, ignored)) {
    return absl::AlreadyExistsError(
        absl::StrCat(file.native(), " exists; --force replaces it"));
  }
  PartFile part(file);
  RETURN_IF_ERROR(part.status());
  grpc::ClientContext context;
  connection.PrepareStream(context);
  const auto reader = stub.DownloadModel(&context, request);
  absl::StatusOr<Received> received =
      Receive(*reader, options.terminal_width, err, part);
  if (!received.ok()) context.TryCancel();
  const absl::Status finished = FromGrpcStatus(reader->Finish());
  RETURN_IF_ERROR(received.status());
  RETURN_IF_ERROR(finished);
  if (received->sha256.empty()) return DamagedError();
  RETURN_IF_ERROR(part.Publish());
  return received;
}

void Print(const Connection& connection, const v1::ModelRef& model,
           const fs::path& file, const Received& received, std::ostream& out) {
  if (connection.json) {
    out << nlohmann::ordered_json{{"model", absl::StrCat(model.name(), "@",
                                                         model.version())},
                                  {"file", ToUtf8(file.native())},
                                  {"bytes", received.bytes},
                                  {"sha256", received.sha256}}
        << std::endl;
    return;
  }
  out << ModelName(model) << " is in " << ToPrintable(file.native()) << ", "
      << ByteText(received.bytes) << "\nSHA-256 "
      << ToPrintable(received.sha256) << "\n";
}

}  // namespace

ExitCode DownloadModel(const Connection& connection, const v1::ModelRef& model,
                       const DownloadOptions& options, std::ostream& out,
                       std::ostream& err) {
  const auto stub = v1::ModelService::NewStub(connection.channel);
  const auto resolved = Resolve(connection, *stub, model);
  if (!resolved.ok()) return PrintError(connection, resolved.status(), err);
  v1::DownloadModelRequest request;
  *request.mutable_model() = resolved->ref();
  request.set_format(options.format);
  const fs::path file = options.file.empty()
                            ? DefaultFile(resolved->ref(), options.format)
                            : options.file;
  const auto received =
      Download(connection, *stub, request, file, options, err);
  if (!received.ok()) return PrintError(connection, received.status(), err);
  Print(connection, resolved->ref(), file, *received, out);
  return kDone;
}

}  // namespace finetune
