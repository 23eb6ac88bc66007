// The door to inference for every service: from a model's name and encoded
// images to probabilities.

#ifndef SERVER_INFERENCE_CLASSIFIER_H_
#define SERVER_INFERENCE_CLASSIFIER_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/inference/batcher.h"
#include "server/inference/model_cache.h"
#include "server/inference/servable.h"

namespace finetune {

struct ClassifyCall {
  v1::ModelRef model;                     // As ModelRegistry::Resolve.
  std::vector<absl::string_view> images;  // Encoded; alive until `done`.
  absl::Time deadline = absl::InfiniteFuture();
  // Whether the caller has gone. Empty: never.
  std::function<bool()> cancelled;
};

struct ClassifyAnswer {
  std::shared_ptr<const Servable> servable;  // What answered all images.
  ClassifyOutcome outcome;
};

// Thread-safe.
class Classifier {
 public:
  using ResolveFn =
      std::function<absl::StatusOr<v1::Model>(const v1::ModelRef&)>;
  using DoneFn = std::function<void(absl::StatusOr<ClassifyAnswer>)>;
  // Hears of every outcome and the time since Classify was called, on the
  // thread of `done` and before it; must not block.
  using AnswerFn =
      std::function<void(const ClassifyOutcome&, absl::Duration total)>;

  // `models` and `batcher` must outlive this, and this all calls.
  Classifier(ResolveFn resolve, ModelCache& models, Batcher& batcher,
             AnswerFn on_answer = nullptr)
      : resolve_(std::move(resolve)),
        models_(models),
        batcher_(batcher),
        on_answer_(std::move(on_answer)) {}

  // Calls `done` exactly once, on another thread or before returning; it must
  // not block. A model that is not in memory is loaded first, while others go
  // on. Errors are those of `resolve`, of ModelCache::Get (of `resolve` again,
  // if the model was deleted before it was loaded), and of Batcher::Submit. An
  // image that cannot be decoded fails alone, in the outcome.
  // REQUIRES: call.images is not empty.
  void Classify(ClassifyCall call, DoneFn done);

 private:
  absl::Status ExplainFailedLoad(const v1::ModelRef& ref,
                                 const absl::Status& failed) const;
  void Submit(absl::Time begin, std::shared_ptr<const Servable> servable,
              ClassifyCall call, DoneFn done);

  const ResolveFn resolve_;
  ModelCache& models_;
  Batcher& batcher_;
  const AnswerFn on_answer_;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_CLASSIFIER_H_
