#include "server/inference/classifier.h"

namespace finetune {

void Classifier::Classify(ClassifyCall call, DoneFn done) {
  const absl::StatusOr<v1::Model> model = resolve_(call.model);
  if (!model.ok()) return done(model.status());
  const absl::StatusOr<std::shared_ptr<const Servable>> servable =
      models_.Get(*model);
  if (!servable.ok()) return done(servable.status());
  batcher_.Submit({.servable = *servable,
                   .images = std::move(call.images),
                   .deadline = call.deadline,
                   .cancelled = std::move(call.cancelled)},
                  [servable = *servable, done = std::move(done)](
                      absl::StatusOr<ClassifyOutcome> outcome) {
                    if (!outcome.ok()) return done(outcome.status());
                    done(ClassifyAnswer{servable, *std::move(outcome)});
                  });
}

}  // namespace finetune
