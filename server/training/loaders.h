// The images of an epoch, batch by batch, as the recipe wants them.

#ifndef SERVER_TRAINING_LOADERS_H_
#define SERVER_TRAINING_LOADERS_H_

#include <cstdint>

#include "finetune/trainer/trainer.pb.h"
#include "server/data/dataset.h"
#include "server/data/loader.h"

namespace finetune {

// Both need `dataset` while the loader lives, and hand out pixels that are to
// be normalised (data/normalize.h), in memory from `allocate`. A file that
// changed since the scan and cannot be read any more is an error of Next.

// Shuffled and augmented. The order follows from (seed, epoch), each
// augmentation from (seed, epoch, sample): what is left of an epoch after its
// first `steps` is what it would have been.
Loader TrainLoader(const trainer::TrainerSpec& spec, const Dataset& dataset,
                   uint64_t epoch, int64_t steps, AllocateFn allocate);

// In order, with the transform that Classify uses too.
Loader TestLoader(const trainer::TrainerSpec& spec, const Dataset& dataset,
                  AllocateFn allocate);

}  // namespace finetune

#endif  // SERVER_TRAINING_LOADERS_H_
