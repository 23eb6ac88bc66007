#include "server/inference/classifier.h"

#include "absl/time/clock.h"

namespace finetune {

void Classifier::Classify(ClassifyCall call, DoneFn done) {
  const absl::Time begin = absl::Now();
  const absl::StatusOr<v1::Model> model = resolve_(call.model);
  if (!model.ok()) return done(model.status());
  models_.Get(*model, [this, begin, ref = model->ref(), call = std::move(call),
                       done = std::move(done)](
                          ModelCache::LoadedServable servable) mutable {
    if (!servable.ok()) {
      return done(ExplainFailedLoad(ref, servable.status()));
    }
    Submit(begin, *std::move(servable), std::move(call), std::move(done));
  });
}

absl::Status Classifier::ExplainFailedLoad(const v1::ModelRef& ref,
                                           const absl::Status& failed) const {
  const absl::Status now = resolve_(ref).status();
  return absl::IsNotFound(now) ? now : failed;
}

void Classifier::Submit(absl::Time begin,
                        std::shared_ptr<const Servable> servable,
                        ClassifyCall call, DoneFn done) {
  batcher_.Submit({.servable = servable,
                   .images = std::move(call.images),
                   .deadline = call.deadline,
                   .cancelled = std::move(call.cancelled)},
                  [this, begin, servable, done = std::move(done)](
                      absl::StatusOr<ClassifyOutcome> outcome) {
                    if (!outcome.ok()) return done(outcome.status());
                    if (on_answer_) on_answer_(*outcome, absl::Now() - begin);
                    done(ClassifyAnswer{servable, *std::move(outcome)});
                  });
}

}  // namespace finetune
