#include "server/training/checkpoint.h"

#include <algorithm>
#include <iostream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/model/safetensors.h"
#include "server/training/param_groups.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using trainer::CheckpointState;

constexpr char kWeights[] = "weights.safetensors";
constexpr char kOptimizer[] = "optimizer.safetensors";
constexpr char kBest[] = "best.safetensors";
constexpr char kDamaged[] = ".damaged";
constexpr char kState[] = "state.pb";
constexpr char kStateHash[] = "state.sha256";

constexpr size_t kKept = 2;
constexpr uint64_t kMaxStateBytes = 64 << 20;
constexpr uint64_t kMaxHeaderBytes = 1 << 20;  // Of a safetensors file.
constexpr uint64_t kSha256HexBytes = 64;

// Sorts by position.
std::string NameOf(const CheckpointState& state) {
  return absl::StrFormat("epochs-%04d-steps-%08d",
                         state.progress().epochs_size(), state.epoch_steps());
}

bool IsName(const std::string& name) {
  return name.starts_with("epochs-") && !name.ends_with(".tmp") &&
         !name.ends_with(kDamaged);
}

bool WeightsAreTheBest(const CheckpointState& state) {
  return state.epoch_steps() == 0 &&
         state.progress().best_epoch() == state.progress().epochs_size();
}

absl::Status WriteTensors(const fs::path& folder, const char* name,
                          const StateDict& tensors, CheckpointState& state) {
  const std::string bytes = SerializeSafetensors(tensors);
  (*state.mutable_sha256())[name] = Sha256Hex(bytes);
  return WriteFileAtomically(folder / name, bytes);
}

absl::StatusOr<StateDict> ReadTensors(const fs::path& folder, const char* name,
                                      const CheckpointState& state,
                                      uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(folder / name, max_bytes));
  const auto expected = state.sha256().find(name);
  if (expected == state.sha256().end() ||
      Sha256Hex(bytes) != expected->second) {
    return absl::DataLossError(
        absl::StrCat(name, " does not have the SHA-256 it was written with"));
  }
  return ParseSafetensors(bytes);
}

absl::StatusOr<CheckpointState> ReadState(const fs::path& folder) {
  ASSIGN_OR_RETURN(const std::string bytes,
                   ReadFile(folder / kState, kMaxStateBytes));
  ASSIGN_OR_RETURN(const std::string hash,
                   ReadFile(folder / kStateHash, kSha256HexBytes));
  CheckpointState state;
  if (Sha256Hex(bytes) != hash || !state.ParseFromString(bytes)) {
    return absl::DataLossError(
        absl::StrCat(kState, " is not what was written"));
  }
  return state;
}

absl::Status CheckSameJob(const CheckpointState& state,
                          const v1::HyperParameters& hyper_parameters,
                          const std::string& dataset_digest) {
  if (state.dataset_digest() != dataset_digest) {
    return PreconditionError(
        "DATASET", "checkpoint",
        absl::StrCat("the data set changed since this job was interrupted at ",
                     PositionText(state),
                     ": put its files back, or start a new job"));
  }
  if (!google::protobuf::util::MessageDifferencer::Equals(
          state.hyper_parameters(), hyper_parameters)) {
    return PreconditionError(
        "WEIGHTS", "checkpoint",
        absl::StrCat("the hyper-parameters changed since this job was "
                     "interrupted at ",
                     PositionText(state), ": start a new job"));
  }
  return absl::OkStatus();
}

// What a file of all of the tensors of `net`, or fewer, may hold.
uint64_t MaxBytes(const ResNet18Impl& net) {
  uint64_t bytes = kMaxHeaderBytes;
  for (const torch::Tensor& tensor : net.parameters()) bytes += tensor.nbytes();
  for (const torch::Tensor& tensor : net.buffers()) bytes += tensor.nbytes();
  return bytes;
}

absl::StatusOr<Checkpoints::Restored> Load(const fs::path& folder,
                                           const CheckpointState& state,
                                           ResNet18Impl& net,
                                           torch::optim::SGD& sgd) {
  Checkpoints::Restored restored{.state = state};
  const uint64_t max_bytes = MaxBytes(net);
  if (state.progress().best_epoch() > 0) {
    ASSIGN_OR_RETURN(restored.best,
                     ReadTensors(folder, kBest, state, max_bytes));
    RETURN_IF_ERROR(LoadStateDict(restored.best, net));  // Does it fit?
  }
  ASSIGN_OR_RETURN(const StateDict weights,
                   ReadTensors(folder, kWeights, state, max_bytes));
  RETURN_IF_ERROR(LoadStateDict(weights, net));
  StateDict momentum;
  if (state.sha256().contains(kOptimizer)) {
    ASSIGN_OR_RETURN(momentum,
                     ReadTensors(folder, kOptimizer, state, max_bytes));
  }
  RETURN_IF_ERROR(LoadMomentum(momentum, net, sgd));
  return restored;
}

void Remove(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) {
    std::cerr << "cannot remove " << path << ": " << error.message() << "\n";
  }
}

// Other errors, of a disk or of a process that has no descriptors left, pass.
bool ProvesDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInvalidArgument(status);
}

// Returns its new name.
std::string SetAsideDamaged(const fs::path& folder) {
  const fs::path to = folder.native() + kDamaged;
  std::error_code error;
  fs::remove_all(to, error);  // An earlier one of the same position.
  fs::rename(folder, to, error);
  return to.filename();
}

// Renamed first: half of one must not be taken for a checkpoint.
void RemoveCheckpoint(const fs::path& folder) {
  const fs::path removed = folder.native() + ".tmp";
  std::error_code error;
  fs::rename(folder, removed, error);
  Remove(error ? folder : removed);
}

}  // namespace

absl::StatusOr<Checkpoints> Checkpoints::Open(fs::path dir) {
  RETURN_IF_ERROR(MakeFolders(dir));
  Checkpoints checkpoints(std::move(dir));
  std::vector<fs::path> leftovers;
  std::error_code error;
  for (fs::directory_iterator it(checkpoints.dir_, error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    if (name.ends_with(".tmp")) leftovers.push_back(it->path());
    if (IsName(name)) checkpoints.names_.push_back(name);
  }
  if (error) {
    return absl::ErrnoToStatus(
        error.value(), absl::StrCat("list ", checkpoints.dir_.native()));
  }
  for (const fs::path& leftover : leftovers) Remove(leftover);
  std::sort(checkpoints.names_.begin(), checkpoints.names_.end());
  return checkpoints;
}

absl::StatusOr<Checkpoints::Restored> Checkpoints::Restore(
    const v1::HyperParameters& hyper_parameters,
    const std::string& dataset_digest, ResNet18Impl& net,
    torch::optim::SGD& sgd) {
  std::string newest_fault;
  for (size_t kept = names_.size(); kept > 0; --kept) {
    const fs::path folder = dir_ / names_[kept - 1];
    const absl::StatusOr<CheckpointState> state = ReadState(folder);
    if (state.ok()) {
      RETURN_IF_ERROR(CheckSameJob(*state, hyper_parameters, dataset_digest));
    }
    absl::StatusOr<Restored> restored =
        state.ok() ? Load(folder, *state, net, sgd) : state.status();
    if (restored.ok()) {
      for (; names_.size() > kept; names_.pop_back()) {
        restored->set_aside.push_back(SetAsideDamaged(dir_ / names_.back()));
      }
      newest_ = *state;
      return restored;
    }
    if (!ProvesDamage(restored.status())) return restored.status();
    std::cerr << "the checkpoint " << folder.native()
              << " is damaged: " << restored.status().message() << std::endl;
    if (newest_fault.empty())
      newest_fault = std::string(restored.status().message());
  }
  return absl::DataLossError(absl::StrCat(
      "none of the ", names_.size(), " checkpoints in ", dir_.native(),
      " can be read (the newest: ", newest_fault, "): start a new job"));
}

absl::Status Checkpoints::Write(const ResNet18Impl& net,
                                const torch::optim::SGD& sgd,
                                const StateDict& best, CheckpointState state) {
  const std::string name = NameOf(state);
  if (!names_.empty() && names_.back() == name) return absl::OkStatus();
  const fs::path temporary = dir_ / (name + ".tmp");
  absl::Status written = WriteFiles(temporary, net, sgd, best, state);
  if (written.ok()) written = RenameDurably(temporary, dir_ / name);
  if (!written.ok()) {
    Remove(temporary);
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot write a checkpoint: ", written.message()));
  }
  names_.push_back(name);
  newest_ = std::move(state);
  KeepNewest(kKept);
  return absl::OkStatus();
}

absl::Status Checkpoints::WriteFiles(const fs::path& folder,
                                     const ResNet18Impl& net,
                                     const torch::optim::SGD& sgd,
                                     const StateDict& best,
                                     CheckpointState& state) const {
  RETURN_IF_ERROR(MakeFolders(folder));
  RETURN_IF_ERROR(WriteTensors(folder, kWeights, StateDictOf(net), state));
  const StateDict momentum = MomentumOf(net, sgd);
  if (!momentum.empty()) {
    RETURN_IF_ERROR(WriteTensors(folder, kOptimizer, momentum, state));
  }
  if (state.progress().best_epoch() > 0) {
    RETURN_IF_ERROR(WriteBest(folder, best, state));
  }
  const std::string bytes = state.SerializeAsString();
  RETURN_IF_ERROR(WriteFileAtomically(folder / kState, bytes));
  return WriteFileAtomically(folder / kStateHash, Sha256Hex(bytes));
}

// A link to the file that holds them already; a copy where there is none, or
// on a file system without links. The folder is synced with the next file.
absl::Status Checkpoints::WriteBest(const fs::path& folder,
                                    const StateDict& best,
                                    CheckpointState& state) const {
  auto& sha256 = *state.mutable_sha256();
  fs::path source;
  if (WeightsAreTheBest(state)) {
    source = folder / kWeights;
    sha256[kBest] = sha256[kWeights];
  } else if (newest_.progress().best_epoch() == state.progress().best_epoch()) {
    source = dir_ / names_.back() / kBest;
    sha256[kBest] = newest_.sha256().at(kBest);
  }
  if (!source.empty()) {
    std::error_code error;
    fs::create_hard_link(source, folder / kBest, error);
    if (!error) return absl::OkStatus();
  }
  return WriteTensors(folder, kBest, best, state);
}

void Checkpoints::KeepNewest(size_t count) {
  while (names_.size() > count) {
    RemoveCheckpoint(dir_ / names_.front());
    names_.erase(names_.begin());
  }
}

std::string PositionText(const CheckpointState& state) {
  const v1::Progress& progress = state.progress();
  const int done = progress.epochs_size();
  if (done == progress.total_epochs()) return "the end of the last epoch";
  return absl::StrCat("epoch ", done + 1, ", step ", state.epoch_steps(),
                      " of ", progress.total_steps() / progress.total_epochs());
}

}  // namespace finetune
