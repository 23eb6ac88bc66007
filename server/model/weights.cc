#include "server/model/weights.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "server/model/safetensors.h"
#include "server/model/torch_file.h"

namespace finetune {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{4} << 30;
constexpr size_t kMaxListed = 10;
constexpr int kMaxPrefixes = 8;  // Of one name.

absl::StatusOr<StateDict> Parse(absl::string_view bytes) {
  if (IsTorchZip(bytes)) return ParseTorchZip(bytes);
  if (IsTorchLegacy(bytes)) return ParseTorchLegacy(bytes);
  return ParseSafetensors(bytes);
}

// What programs put before the names: DataParallel, torch.compile, and
// modules that hold the network as a member.
constexpr absl::string_view kPrefixes[] = {"module.", "_orig_mod.", "resnet.",
                                           "backbone.", "model."};

// The one of kPrefixes that all names begin with; empty if none.
absl::string_view SharedPrefix(const StateDict& state) {
  for (const absl::string_view prefix : kPrefixes) {
    const bool shared =
        std::all_of(state.begin(), state.end(), [&](const auto& entry) {
          return absl::StartsWith(entry.first, prefix);
        });
    if (shared && !state.empty()) return prefix;
  }
  return "";
}

StateDict WithoutPrefixes(StateDict state) {
  for (int i = 0; i < kMaxPrefixes; ++i) {
    const absl::string_view prefix = SharedPrefix(state);
    if (prefix.empty()) break;
    StateDict bare;
    for (const auto& [name, tensor] : state) {
      bare[name.substr(prefix.size())] = tensor;
    }
    state = std::move(bare);
  }
  return state;
}

std::map<std::string, torch::Tensor> TensorsOf(const ResNet18Impl& net) {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& named : net.named_parameters()) {
    tensors[named.key()] = named.value();
  }
  for (const auto& named : net.named_buffers()) {
    tensors[named.key()] = named.value();
  }
  return tensors;
}

std::string ShapeOf(const torch::Tensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.sizes(), ", "), "]");
}

std::string Listed(absl::string_view title, std::vector<std::string> names) {
  if (names.empty()) return "";
  const size_t total = names.size();
  if (total > kMaxListed) names.resize(kMaxListed);
  return absl::StrCat("; ", title, ": ", absl::StrJoin(names, ", "),
                      total > kMaxListed
                          ? absl::StrCat(" and ", total - kMaxListed, " more")
                          : "");
}

// What keeps `state` from being the state_dict of `wanted`; empty if nothing.
std::string Mismatches(const StateDict& state, const StateDict& wanted) {
  std::vector<std::string> missing, surplus, misshapen;
  for (const auto& [name, tensor] : wanted) {
    const auto it = state.find(name);
    if (it == state.end()) {
      if (!name.ends_with(".num_batches_tracked")) missing.push_back(name);
    } else if (it->second.sizes() != tensor.sizes() ||
               it->second.is_floating_point() != tensor.is_floating_point()) {
      misshapen.push_back(absl::StrCat(name, " is ", ShapeOf(it->second), " ",
                                       c10::toString(it->second.scalar_type()),
                                       ", not ", ShapeOf(tensor), " ",
                                       c10::toString(tensor.scalar_type())));
    }
  }
  for (const auto& [name, tensor] : state) {
    if (!wanted.contains(name)) surplus.push_back(name);
  }
  return absl::StrCat(Listed("missing", std::move(missing)),
                      Listed("surplus", std::move(surplus)),
                      Listed("misshapen", std::move(misshapen)));
}

}  // namespace

absl::StatusOr<StateDict> ReadStateDict(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
  absl::StatusOr<StateDict> state = Parse(bytes);
  if (state.ok()) return WithoutPrefixes(*std::move(state));
  return absl::Status(
      state.status().code(),
      absl::StrCat(path.native(), ": ", state.status().message()));
}

absl::Status CheckFinite(const StateDict& state) {
  for (const auto& [name, tensor] : state) {
    if (tensor.isfinite().all().item<bool>()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, " holds NaN or infinite numbers"));
  }
  return absl::OkStatus();
}

StateDict StateDictOf(const ResNet18Impl& net) {
  StateDict state;
  for (const auto& [name, tensor] : TensorsOf(net)) {
    state[name] = tensor.detach()
                      .to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true)
                      .contiguous();
  }
  return state;
}

absl::Status LoadStateDict(const StateDict& state, ResNet18Impl& net) {
  const StateDict wanted = TensorsOf(net);
  const std::string mismatches = Mismatches(state, wanted);
  if (!mismatches.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not the weights of this ResNet18", mismatches));
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : wanted) {
    const auto it = state.find(name);
    if (it != state.end()) tensor.copy_(it->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<ResNet18> WithNewHead(StateDict state, int64_t classes) {
  ResNet18 net(classes);
  for (const char* name : {"fc.weight", "fc.bias"}) {
    state[name] = net->named_parameters()[name].detach();
  }
  RETURN_IF_ERROR(LoadStateDict(state, *net));
  return net;
}

}  // namespace finetune
