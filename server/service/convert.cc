#include "server/service/convert.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameLength = 63;
constexpr size_t kMaxPathLength = 4096;
constexpr int kMaxTopK = 1000;

bool IsNameCharacter(char c) {
  return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
}

bool IsModelName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength &&
         std::all_of(name.begin(), name.end(), IsNameCharacter);
}

std::string NameOfFolder(const fs::path& dir) {
  std::string name = absl::AsciiStrToLower(dir.filename().native());
  name.resize(std::min(name.size(), kMaxNameLength));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !IsNameCharacter(c); },
      '-');
  return name;
}

absl::StatusOr<fs::path> ResolveDataset(const std::string& dataset,
                                        const fs::path& data_root) {
  if (dataset.empty() || dataset.size() > kMaxPathLength ||
      dataset.find('\0') != std::string::npos) {
    return InvalidFieldError("dataset", "the path of a folder");
  }
  std::error_code error;
  const fs::path root = fs::canonical(data_root, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), "the server's data root");
  }
  // Where a part does not exist, the rest is taken by its letters.
  const fs::path dir = fs::weakly_canonical(root / dataset, error);
  const auto [end, unused] =
      std::mismatch(root.begin(), root.end(), dir.begin(), dir.end());
  if (error || end != root.end()) {
    return absl::PermissionDeniedError(
        "dataset must be below the server's data root");
  }
  if (!fs::is_directory(dir, error)) {
    return NoSuchResourceError("dataset", dataset);
  }
  return dir;
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

void AddScores(const v1::Model& model, int top_k,
               const Probabilities& probabilities, v1::ClassifyResult& result) {
  std::vector<int> best(probabilities.size());
  std::iota(best.begin(), best.end(), 0);
  const size_t count =
      top_k == 0 ? best.size() : std::min<size_t>(top_k, best.size());
  std::partial_sort(best.begin(), best.begin() + static_cast<ptrdiff_t>(count),
                    best.end(), [&](int a, int b) {
                      return probabilities[a] != probabilities[b]
                                 ? probabilities[a] > probabilities[b]
                                 : a < b;
                    });
  for (size_t i = 0; i < count; ++i) {
    auto* score = result.add_scores();
    score->set_class_index(best[i]);
    score->set_label(model.labels(best[i]));
    score->set_probability(probabilities[best[i]]);
  }
}

}  // namespace

absl::StatusOr<JobRequest> ToJobRequest(const v1::StartFineTuneRequest& request,
                                        const fs::path& data_root) {
  JobRequest job{.dataset = request.dataset()};
  ASSIGN_OR_RETURN(job.hyper_parameters, Resolve(request.hyper_parameters()));
  if (!request.model_name().empty() && !IsModelName(request.model_name())) {
    return InvalidFieldError("model_name", "1..63 of a-z, 0-9 and '-'");
  }
  ASSIGN_OR_RETURN(job.dataset_dir,
                   ResolveDataset(request.dataset(), data_root));
  job.model_name = request.model_name().empty() ? NameOfFolder(job.dataset_dir)
                                                : request.model_name();
  return job;
}

absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request,
                                  const ClassifyLimits& limits) {
  if (request.images_size() < 1 || request.images_size() > limits.max_images) {
    return InvalidFieldError(
        "images", absl::StrCat("1..", limits.max_images, " images, not ",
                               request.images_size()));
  }
  for (int i = 0; i < request.images_size(); ++i) {
    const size_t bytes = request.images(i).size();
    if (bytes < 1 || bytes > limits.max_image_bytes) {
      return InvalidFieldError(
          absl::StrCat("images[", i, "]"),
          absl::StrCat("1..", limits.max_image_bytes, " bytes, not ", bytes));
    }
  }
  if (request.top_k() < 0 || request.top_k() > kMaxTopK) {
    return InvalidFieldError(
        "top_k", absl::StrCat("0..", kMaxTopK, ", not ", request.top_k()));
  }
  if (!request.model().name().empty() && !IsModelName(request.model().name())) {
    return InvalidFieldError("model.name", "1..63 of a-z, 0-9 and '-'");
  }
  if (request.model().version() < 0) {
    return InvalidFieldError("model.version", "0 or above");
  }
  if (request.model().version() > 0 && request.model().name().empty()) {
    return InvalidFieldError("model.name", "given where model.version is");
  }
  return absl::OkStatus();
}

v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome) {
  v1::ClassifyResponse response;
  *response.mutable_model() = model.ref();
  for (const auto& image : outcome.images) {
    v1::ClassifyResult& result = *response.add_results();
    if (image.ok()) {
      AddScores(model, top_k, *image, result);
    } else {
      *result.mutable_error() = ToRpcStatus(image.status());
    }
  }
  v1::ServerTiming& timing = *response.mutable_timing();
  *timing.mutable_queue() = ToProto(outcome.queue);
  *timing.mutable_preprocess() = ToProto(outcome.preprocess);
  *timing.mutable_compute() = ToProto(outcome.compute);
  timing.set_batch_size(outcome.batch_size);
  return response;
}

}  // namespace finetune
