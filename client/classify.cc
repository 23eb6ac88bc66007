#include "client/classify.h"

#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/file.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "nlohmann/json.hpp"

namespace finetune {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxFileBytes = 48 << 20;
// Of a request; an image above it goes alone.
constexpr int kMaxImages = 16;
constexpr size_t kMaxRequestBytes = 3 << 20;

// Prints results, as text or as a JSON line each.
class Printer {
 public:
  Printer(bool json, std::ostream& out, std::ostream& err)
      : json_(json), out_(out), err_(err) {}

  void Scores(const std::string& file, const v1::ModelRef& model,
              const v1::ClassifyResult& result) {
    if (json_) return JsonScores(file, model, result);
    out_ << file << "\n";
    for (const v1::ClassScore& score : result.scores()) {
      out_ << absl::StrFormat("  %.4f  %s\n", score.probability(),
                              score.label());
    }
    out_.flush();
  }

  void Error(const std::string& file, const absl::Status& error) {
    failed_ = true;
    err_ << "finetune: " << file << ": " << error.message() << std::endl;
    if (!json_) return;
    JsonLine({{"image", file},
              {"error",
               {{"code", absl::StatusCodeToString(error.code())},
                {"message", std::string(error.message())}}}});
  }

  bool failed() const { return failed_; }

 private:
  // File names need not be UTF-8; what is not becomes U+FFFD.
  void JsonLine(const Json& line) {
    out_ << line.dump(-1, ' ', false, Json::error_handler_t::replace)
         << std::endl;
  }

  void JsonScores(const std::string& file, const v1::ModelRef& model,
                  const v1::ClassifyResult& result) {
    Json scores = Json::array();
    for (const v1::ClassScore& score : result.scores()) {
      scores.push_back(
          {{"label", score.label()}, {"probability", score.probability()}});
    }
    JsonLine({{"image", file},
              {"model", model.name()},
              {"version", model.version()},
              {"scores", std::move(scores)}});
  }

  const bool json_;
  std::ostream& out_;
  std::ostream& err_;
  bool failed_ = false;
};

// Files on their way to the server in one request.
struct Pending {
  v1::ClassifyRequest request;
  std::vector<std::string> files;
  size_t bytes = 0;
};

class Classifier {
 public:
  Classifier(const Connection& connection, const ClassifyOptions& options,
             Printer& printer)
      : connection_(connection),
        options_(options),
        printer_(printer),
        stub_(v1::InferenceService::NewStub(connection.channel)) {}

  // Not OK only if the whole call failed.
  absl::Status Add(const std::string& file) {
    absl::StatusOr<std::string> bytes = ReadFile(file, kMaxFileBytes);
    if (!bytes.ok()) {
      printer_.Error(file, bytes.status());
      return absl::OkStatus();
    }
    absl::Status sent;
    if (pending_.request.images_size() == kMaxImages ||
        pending_.bytes + bytes->size() > kMaxRequestBytes) {
      sent = Send();
    }
    pending_.bytes += bytes->size();
    pending_.request.add_images(*std::move(bytes));
    pending_.files.push_back(file);
    return sent;
  }

  absl::Status Send() {
    Pending batch = std::exchange(pending_, {});
    if (batch.files.empty()) return absl::OkStatus();
    *batch.request.mutable_model() = options_.model;
    batch.request.set_top_k(options_.top_k);
    v1::ClassifyResponse response;
    const absl::Status status =
        Call(connection_, *stub_, &v1::InferenceService::Stub::Classify,
             batch.request, response);
    if (absl::IsInvalidArgument(status) && batch.files.size() == 1) {
      printer_.Error(batch.files[0], status);  // The image's own fault.
      return absl::OkStatus();
    }
    if (!status.ok()) return status;
    if (response.results_size() != batch.request.images_size()) {
      return absl::InternalError(
          absl::StrCat("the server answered ", batch.request.images_size(),
                       " images with ", response.results_size(), " results"));
    }
    for (int i = 0; i < response.results_size(); ++i) {
      const v1::ClassifyResult& result = response.results(i);
      if (result.has_error()) {
        printer_.Error(batch.files.at(i), FromRpcStatus(result.error()));
      } else {
        printer_.Scores(batch.files.at(i), response.model(), result);
      }
    }
    return absl::OkStatus();
  }

 private:
  const Connection& connection_;
  const ClassifyOptions& options_;
  Printer& printer_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  Pending pending_;
};

}  // namespace

absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& text) {
  v1::ModelRef ref;
  const size_t at = text.find('@');
  ref.set_name(text.substr(0, at));
  int64_t version = 0;
  if (at != std::string::npos) {
    if (!absl::SimpleAtoi(text.substr(at + 1), &version) || version < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is not NAME or NAME@VERSION"));
    }
    ref.set_version(version);
  }
  if (ref.name().empty()) {
    return absl::InvalidArgumentError("the model's name is empty");
  }
  return ref;
}

ExitCode ClassifyFiles(const Connection& connection,
                       const std::vector<std::string>& files,
                       const ClassifyOptions& options, std::ostream& out,
                       std::ostream& err) {
  Printer printer(connection.json, out, err);
  Classifier classifier(connection, options, printer);
  absl::Status status;
  for (size_t i = 0; i < files.size() && status.ok(); ++i) {
    status = classifier.Add(files[i]);
  }
  if (status.ok()) status = classifier.Send();
  if (!status.ok()) return PrintError(connection, status, err);
  return printer.failed() ? kFailed : kDone;
}

}  // namespace finetune
