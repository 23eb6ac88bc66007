#include "server/service/convert_training.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "server/datasets/dataset_store.h"
#include "server/service/names.h"
#include "server/service/unary.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathLength = 4096;
constexpr size_t kMaxRequestIdLength = 128;
constexpr size_t kMaxLabels = 64;
constexpr size_t kMaxLabelValue = 256;

// One message, one digest: maps are written in the order of their keys.
std::string DigestOf(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  return Sha256Hex(bytes);
}

absl::StatusOr<fs::path> ResolveFolder(const std::string& dataset,
                                       const fs::path& data_root) {
  std::error_code error;
  const fs::path root = fs::canonical(data_root, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), "the server's data root");
  }
  // Where a part does not exist, the rest is taken by its letters.
  const fs::path dir = fs::weakly_canonical(root / dataset, error);
  if (error || !IsWithin(dir, root)) {
    return absl::PermissionDeniedError(
        "dataset must be below the server's data root");
  }
  if (!fs::is_directory(dir, error)) {
    return NoSuchResourceError("dataset", dataset);
  }
  return dir;
}

// Fills in where the data set is, and returns its name.
absl::StatusOr<std::string> FindDataset(const std::string& dataset,
                                        const fs::path& data_root,
                                        const FindUploadFn& find_upload,
                                        JobOrigin& origin) {
  if (dataset.empty() || dataset.size() > kMaxPathLength ||
      dataset.find('\0') != std::string::npos) {
    return InvalidFieldError("dataset",
                             "the path of a folder, or an uploaded data set's "
                             "id");
  }
  if (IsDatasetId(dataset)) {
    const absl::StatusOr<UploadedDataset> upload = find_upload(dataset);
    if (upload.ok()) {
      origin.dataset_id = dataset;
      origin.dataset_dir = upload->dir;
      return upload->name;
    }
    if (!absl::IsNotFound(upload.status())) return upload.status();
  }
  ASSIGN_OR_RETURN(origin.dataset_dir, ResolveFolder(dataset, data_root));
  return origin.dataset_dir.filename().native();
}

// Writes the default into an absent field, and checks one that is there.
class Resolver {
 public:
  explicit Resolver(v1::HyperParameters& parameters)
      : parameters_(parameters) {}

  // In [low, high], or (low, high] where `open_low`.
  void Real(const char* name, double low, bool open_low, double high,
            bool present, double value, double fallback,
            void (v1::HyperParameters::*set)(double)) {
    const double resolved = present ? value : fallback;
    (parameters_.*set)(resolved);
    const bool in_range =
        (open_low ? resolved > low : resolved >= low) && resolved <= high;
    if (!in_range) {
      Fail(name, absl::StrCat("in ", open_low ? "(" : "[", low, ", ", high,
                              "], not ", resolved));
    }
  }

  void Integer(const char* name, int high, bool present, int value,
               int fallback, void (v1::HyperParameters::*set)(int)) {
    const int resolved = present ? value : fallback;
    (parameters_.*set)(resolved);
    if (resolved < 1 || resolved > high) {
      Fail(name, absl::StrCat("1..", high, ", not ", resolved));
    }
  }

  // The first failure.
  const absl::Status& status() const { return status_; }

 private:
  void Fail(const char* name, const std::string& expected) {
    if (!status_.ok()) return;
    status_ =
        InvalidFieldError(absl::StrCat("hyper_parameters.", name), expected);
  }

  v1::HyperParameters& parameters_;
  absl::Status status_;
};

absl::StatusOr<v1::HyperParameters> Resolve(const v1::HyperParameters& given) {
  using P = v1::HyperParameters;
  P all = given;
  Resolver resolve(all);
  resolve.Real("learning_rate", 0, true, 10, given.has_learning_rate(),
               given.learning_rate(), 0.01, &P::set_learning_rate);
  resolve.Real("head_learning_rate", 0, true, 100,
               given.has_head_learning_rate(), given.head_learning_rate(),
               10 * all.learning_rate(), &P::set_head_learning_rate);
  resolve.Real("weight_decay", 0, false, 1, given.has_weight_decay(),
               given.weight_decay(), 0.001, &P::set_weight_decay);
  resolve.Real("momentum", 0, false, std::nextafter(1.0, 0.0),
               given.has_momentum(), given.momentum(), 0, &P::set_momentum);
  resolve.Integer("batch_size", 1024, given.has_batch_size(),
                  given.batch_size(), 64, &P::set_batch_size);
  resolve.Integer("epochs", 1000, given.has_epochs(), given.epochs(), 5,
                  &P::set_epochs);
  if (!given.has_seed()) all.set_seed(std::random_device()());
  all.set_from_scratch(given.from_scratch());
  RETURN_IF_ERROR(resolve.status());
  return all;
}

bool IsLabelKey(absl::string_view key) {
  return !key.empty() && key.size() <= kMaxNameLength &&
         std::all_of(key.begin(), key.end(), [](char c) {
           return IsNameCharacter(c) || c == '_' || c == '.';
         });
}

absl::Status CheckLabels(
    const google::protobuf::Map<std::string, std::string>& labels) {
  if (labels.size() > kMaxLabels) {
    return InvalidFieldError("labels", absl::StrCat("at most ", kMaxLabels,
                                                    ", not ", labels.size()));
  }
  for (const auto& [key, value] : labels) {
    if (!IsLabelKey(key)) {
      return InvalidFieldError("labels",
                               "keyed by 1..63 of a-z, 0-9, '_', '.' and '-'");
    }
    if (value.size() > kMaxLabelValue) {
      return InvalidFieldError(
          absl::StrCat("labels[\"", key, "\"]"),
          absl::StrCat("at most ", kMaxLabelValue, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMaxRunDuration(const v1::StartFineTuneRequest& request) {
  if (!request.has_max_run_duration()) return absl::OkStatus();
  const absl::Duration limit = FromProto(request.max_run_duration());
  if (limit >= absl::Seconds(1) && limit <= absl::Hours(24 * 365)) {
    return absl::OkStatus();
  }
  return InvalidFieldError("max_run_duration", "1 s..365 days");
}

}  // namespace

absl::StatusOr<JobOrigin> ToOrigin(const v1::StartFineTuneRequest& request) {
  const std::string& id = request.request_id();
  if (id.size() > kMaxRequestIdLength ||
      !std::all_of(id.begin(), id.end(), absl::ascii_isgraph)) {
    return InvalidFieldError("request_id",
                             absl::StrCat("at most ", kMaxRequestIdLength,
                                          " printable ASCII characters"));
  }
  JobOrigin origin{.request_id = id};
  if (!id.empty()) origin.request_sha256 = DigestOf(request);
  return origin;
}

absl::StatusOr<JobRequest> ToJobRequest(const v1::StartFineTuneRequest& request,
                                        const fs::path& data_root,
                                        const FindUploadFn& find_upload) {
  JobRequest out;
  ASSIGN_OR_RETURN(out.origin, ToOrigin(request));
  v1::FineTuneJob& job = out.job;
  ASSIGN_OR_RETURN(*job.mutable_hyper_parameters(),
                   Resolve(request.hyper_parameters()));
  if (!request.model_name().empty() && !IsModelName(request.model_name())) {
    return InvalidFieldError("model_name", "1..63 of a-z, 0-9 and '-'");
  }
  RETURN_IF_ERROR(CheckLabels(request.labels()));
  RETURN_IF_ERROR(CheckMaxRunDuration(request));
  ASSIGN_OR_RETURN(
      const std::string name,
      FindDataset(request.dataset(), data_root, find_upload, out.origin));
  job.set_dataset(request.dataset());
  job.set_model_name(request.model_name());
  if (request.model_name().empty()) {
    job.set_model_name(ToModelName(name));
    // Many names become the same dashes.
    if (job.model_name().find_first_not_of('-') == std::string::npos) {
      return InvalidFieldError(
          "model_name",
          "given: the data set's name has no ASCII letter or digit");
    }
  }
  job.set_hold_promotion(request.hold_promotion());
  *job.mutable_labels() = request.labels();
  if (request.has_max_run_duration()) {
    *job.mutable_max_run_duration() = request.max_run_duration();
  }
  return out;
}

absl::StatusOr<ListQuery> ToListQuery(const v1::ListFineTunesRequest& request) {
  ListQuery query{.token = request.page_token()};
  ASSIGN_OR_RETURN(query.page_size, ResolvePageSize(request.page_size()));
  if (!query.token.empty() && (!absl::StartsWith(query.token, "ft-") ||
                               query.token.size() > kMaxNameLength)) {
    return InvalidFieldError("page_token", "one that an earlier response had");
  }
  if (request.states_size() > v1::JobState_ARRAYSIZE) {
    return InvalidFieldError("states", "given once each");
  }
  for (const int state : request.states()) {
    if (!v1::JobState_IsValid(state) || state == v1::JOB_STATE_UNSPECIFIED) {
      return InvalidFieldError("states", "of the JobState values above 0");
    }
    query.states.push_back(static_cast<v1::JobState>(state));
  }
  return query;
}

}  // namespace finetune
