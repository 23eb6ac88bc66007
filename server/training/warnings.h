// What looks wrong in a training that goes on nevertheless, in words for
// people: what was seen, and what to try.

#ifndef SERVER_TRAINING_WARNINGS_H_
#define SERVER_TRAINING_WARNINGS_H_

#include <cstdint>
#include <string>

#include "finetune/v1/dataset.pb.h"
#include "finetune/v1/job.pb.h"

namespace finetune {

// Both return "" where there is nothing to warn of.

// Whether the epoch's mean training loss is over 3 x ln(classes), three times
// that of a model that has learnt nothing: the steps are too large.
std::string OvershootWarning(const v1::EpochMetrics& epoch, int64_t classes,
                             const v1::HyperParameters& hyper_parameters);

// Whether test images are byte for byte in train/ too.
std::string DuplicatesWarning(const v1::DatasetStats& stats);

}  // namespace finetune

#endif  // SERVER_TRAINING_WARNINGS_H_
