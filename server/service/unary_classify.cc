#include "server/service/unary_classify.h"

#include <cstdint>
#include <utility>

#include "absl/time/time.h"
#include "server/model/registry.h"

namespace finetune {
namespace {

ClassifyFacts SizesOf(const std::vector<absl::string_view>& images) {
  ClassifyFacts facts{.images = static_cast<int>(images.size())};
  for (const absl::string_view image : images) {
    facts.request_bytes += static_cast<int64_t>(image.size());
  }
  return facts;
}

void AddAnswer(const ClassifyAnswer& answer, ClassifyFacts& facts) {
  facts.model = ModelRefText(answer.servable->model.ref());
  facts.queue = answer.outcome.queue;
  facts.preprocess = answer.outcome.preprocess;
  facts.compute = answer.outcome.compute;
  facts.batch_size = answer.outcome.batch_size;
}

}  // namespace

void ClassifyForCall(
    Classifier& classifier, CallLog& log, grpc::CallbackServerContext* context,
    v1::ModelRef model, std::vector<absl::string_view> images,
    std::function<void(const absl::StatusOr<ClassifyAnswer>&)> done) {
  ClassifyFacts facts = SizesOf(images);
  classifier.Classify(
      {.model = std::move(model),
       .images = std::move(images),
       .deadline = absl::FromChrono(context->deadline()),
       .cancelled = [context] { return context->IsCancelled(); }},
      [=, &log, facts = std::move(facts), done = std::move(done)](
          const absl::StatusOr<ClassifyAnswer>& answer) mutable {
        if (answer.ok()) AddAnswer(*answer, facts);
        log.Note(*context, std::move(facts));
        done(answer);
      });
}

}  // namespace finetune
