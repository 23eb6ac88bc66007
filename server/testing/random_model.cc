#include "server/testing/random_model.h"

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "server/model/registry.h"
#include "server/model/resnet18.h"
#include "server/model/safetensors.h"
#include "server/model/weights.h"

namespace finetune::testing {
namespace {

constexpr int kClasses = 8;

// Batch norm's statistics and the bias come from coloured squares, as from a
// training: without them the activations of random weights would grow from
// layer to layer, and one class would win always.
ResNet18 RandomModel(int64_t seed) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  ResNet18 net(kClasses);
  for (const auto& module : net->modules()) {
    if (auto* norm = module->as<torch::nn::BatchNorm2d>()) {
      norm->options.momentum(1.0);
    }
  }
  const torch::Tensor squares = torch::randn({16, 3, 8, 8})
                                    .repeat_interleave(8, 2)
                                    .repeat_interleave(8, 3);
  net->train();
  net->forward(squares);
  net->eval();
  net->fc->weight.mul_(10);  // Far apart, not all near 1 / kClasses.
  net->fc->bias.sub_(net->forward(squares).mean(0));
  return net;
}

}  // namespace

absl::Status WriteRandomModel(const std::filesystem::path& models_dir,
                              const std::string& name, int64_t version) {
  const std::string weights =
      SerializeSafetensors(StateDictOf(*RandomModel(version)));
  v1::Model model;
  model.mutable_ref()->set_name(name);
  model.mutable_ref()->set_version(version);
  for (int i = 0; i < kClasses; ++i) {
    model.add_labels(absl::StrCat("class ", i));
  }
  model.set_weights_sha256(Sha256Hex(weights));
  const auto dir = models_dir / name / absl::StrCat(version);
  RETURN_IF_ERROR(MakeFolders(dir));
  RETURN_IF_ERROR(WriteFileAtomically(dir / kWeightsFile, weights));
  return WriteModelFile(dir, model);
}

}  // namespace finetune::testing
