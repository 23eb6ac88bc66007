#include "server/model/pickle.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/model/pickle_machine.h"

namespace finetune {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

using Value = PickleValue;
using Kind = PickleValue::Kind;

absl::StatusOr<std::vector<int64_t>> Integers(const Value& list) {
  std::vector<int64_t> numbers;
  for (const Value* item : list.items) {
    if (item->kind != Kind::kInt || item->number < 0 ||
        item->number > kMaxElements) {
      return MalformedPickle("a shape is not one");
    }
    numbers.push_back(item->number);
  }
  if (numbers.size() > 8) return MalformedPickle("more than 8 dimensions");
  return numbers;
}

// Whether every element of the view lies within the storage.
bool IsInside(const PickledTensor& tensor) {
  if (tensor.sizes.size() != tensor.strides.size()) return false;
  __extension__ using Wide = __int128;  // No product below overflows it.
  Wide last = tensor.offset;
  for (size_t i = 0; i < tensor.sizes.size(); ++i) {
    if (tensor.sizes[i] == 0) return true;
    last += Wide{tensor.sizes[i] - 1} * tensor.strides[i];
  }
  return last < tensor.storage_size;
}

// (storage, offset, sizes, strides, requires_grad, hooks...)
absl::StatusOr<Value> RebuildTensor(const Value& arguments) {
  const auto& items = arguments.items;
  if (items.size() < 4 || items[0]->kind != Kind::kStorage) {
    return MalformedPickle("a tensor without a storage");
  }
  const auto& storage = items[0]->items;
  Value value{.kind = Kind::kTensor};
  PickledTensor& tensor = value.tensor;
  constexpr absl::string_view kTorch = "torch ";
  if (!absl::StartsWith(storage[0]->text, kTorch)) {
    return MalformedPickle("an unknown storage type");
  }
  tensor.storage_type = storage[0]->text.substr(kTorch.size());
  tensor.storage_key = storage[1]->text;
  ASSIGN_OR_RETURN(const std::vector<int64_t> scalars,
                   Integers(Value{.items = {storage[3], items[1]}}));
  tensor.storage_size = scalars[0];
  tensor.offset = scalars[1];
  ASSIGN_OR_RETURN(tensor.sizes, Integers(*items[2]));
  ASSIGN_OR_RETURN(tensor.strides, Integers(*items[3]));
  if (!IsInside(tensor))
    return MalformedPickle("a tensor outside of its storage");
  return value;
}

// The few functions that torch.save makes a state_dict of.
absl::StatusOr<Value> CallKnown(const std::string& function,
                                const Value& arguments) {
  if (function == "collections OrderedDict") return Value{.kind = Kind::kDict};
  if (function == "torch._utils _rebuild_tensor_v2") {
    return RebuildTensor(arguments);
  }
  if (function == "torch._utils _rebuild_parameter" &&
      !arguments.items.empty()) {
    return *arguments.items[0];
  }
  return absl::InvalidArgumentError(
      absl::StrCat("refused: the pickle would call \"", function.substr(0, 100),
                   "\", which no state_dict needs"));
}

}  // namespace

absl::StatusOr<std::vector<PickledTensor>> ConsumeStateDictPickle(
    absl::string_view& pickle) {
  PickleMachine machine(pickle, CallKnown);
  ASSIGN_OR_RETURN(const PickleValue* top, machine.Run());
  if (top->kind != Kind::kDict) {
    return absl::InvalidArgumentError(
        "not a state_dict: save it with torch.save(model.state_dict(), file)");
  }
  std::vector<PickledTensor> tensors;
  for (size_t i = 0; i + 1 < top->items.size(); i += 2) {
    const Value& key = *top->items[i];
    const Value& value = *top->items[i + 1];
    if (key.kind != Kind::kString || value.kind != Kind::kTensor) {
      return absl::InvalidArgumentError(absl::StrCat(
          "not a state_dict: \"", key.text.substr(0, 100), "\" is no tensor"));
    }
    tensors.push_back(value.tensor);
    tensors.back().name = key.text;
  }
  return tensors;
}

absl::StatusOr<std::vector<std::string>> ConsumeStringListPickle(
    absl::string_view& pickle) {
  PickleMachine machine(pickle, CallKnown);
  ASSIGN_OR_RETURN(const PickleValue* top, machine.Run());
  std::vector<std::string> strings;
  for (const Value* item : top->items) strings.push_back(item->text);
  return strings;
}

absl::Status SkipPickle(absl::string_view& pickle) {
  return PickleMachine(pickle, CallKnown).Run().status();
}

}  // namespace finetune
