// Where a training stood, on disk: all that a process needs to go on as if it
// had never stopped, bit for bit.
//
//   <dir>/epochs-0001-steps-00000012/   one epoch done, 12 steps of the next
//     weights.safetensors     with torchvision's names: loads in Python
//     optimizer.safetensors   SGD's momentum, by parameter; absent without
//     best.safetensors        the weights of progress.best_epoch; absent where
//                             no epoch is done
//     state.pb                CheckpointState, with the SHA-256 of these files
//     state.sha256            that of state.pb
//
// A checkpoint is written as <name>.tmp and appears by a rename: whole or
// absent, also on a machine that loses power. It stands alone: its best weights
// are a hard link to those of the one before, not a reference that could
// dangle.

#ifndef SERVER_TRAINING_CHECKPOINT_H_
#define SERVER_TRAINING_CHECKPOINT_H_

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "finetune/trainer/trainer.pb.h"
#include "server/model/resnet18.h"
#include "server/model/weights.h"
#include "torch/torch.h"

namespace finetune {

// The checkpoints of one job, used by one process. Not thread-safe.
class Checkpoints {
 public:
  struct Restored {
    trainer::CheckpointState state;
    StateDict best;  // Empty where no epoch is done.
    std::vector<std::string>
        set_aside;  // Names of damaged ones that are newer.
  };

  // Makes `dir` where it is absent, and removes what a killed process left
  // half-written there.
  static absl::StatusOr<Checkpoints> Open(std::filesystem::path dir);

  bool empty() const { return names_.empty(); }

  // Puts the newest checkpoint into `net`, laid out as it will be trained, and
  // its optimizer. One that is damaged, by its hashes or the tensors' shapes,
  // is named on standard error, renamed to <name>.damaged, and the one before
  // taken: training from there gives the same bits. Reads at most a little more
  // than the tensors' own bytes, and 64 MiB of state.
  //
  // DATA_LOSS if all are damaged; what reading one gives otherwise, which may
  // pass. All are then left as they are.
  // FAILED_PRECONDITION if it is of other hyper-parameters, or of a data set
  // with another digest. In both cases `net` and `sgd` are of no use.
  // REQUIRES: !empty().
  absl::StatusOr<Restored> Restore(const v1::HyperParameters& hyper_parameters,
                                   const std::string& dataset_digest,
                                   ResNet18Impl& net, torch::optim::SGD& sgd);

  // Durable when it returns OK; then all but the newest two are removed. Does
  // nothing if the newest one is of this position. `best`: the weights of
  // state.progress.best_epoch. `state` is complete but for `sha256`.
  //
  // RESOURCE_EXHAUSTED, with the path and the file system's reason, if it
  // cannot be written; the checkpoints before are then untouched.
  absl::Status Write(const ResNet18Impl& net, const torch::optim::SGD& sgd,
                     const StateDict& best, trainer::CheckpointState state);

 private:
  explicit Checkpoints(std::filesystem::path dir) : dir_(std::move(dir)) {}

  absl::Status WriteFiles(const std::filesystem::path& folder,
                          const ResNet18Impl& net, const torch::optim::SGD& sgd,
                          const StateDict& best,
                          trainer::CheckpointState& state) const;
  absl::Status WriteBest(const std::filesystem::path& folder,
                         const StateDict& best,
                         trainer::CheckpointState& state) const;
  void KeepNewest(size_t count);

  std::filesystem::path dir_;
  std::vector<std::string> names_;   // Oldest first.
  trainer::CheckpointState newest_;  // Of names_.back(), once it is known.
};

// For people: "epoch 2, step 12 of 40", or "the end of the last epoch".
std::string PositionText(const trainer::CheckpointState& state);

}  // namespace finetune

#endif  // SERVER_TRAINING_CHECKPOINT_H_
