#include "server/model/pickle.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/model/pickle_machine.h"

namespace finetune {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;
constexpr int kMaxWrappers = 3;

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

// "FloatStorage" of "torch FloatStorage"; empty if it is not of torch.
std::string StorageType(const Value& storage) {
  const std::string& type = storage.items[0]->text;
  if (!absl::StartsWith(type, "torch")) return "";
  return type.substr(type.rfind(' ') + 1);
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
  tensor.storage_type = StorageType(*items[0]);
  if (tensor.storage_type.empty()) {
    return MalformedPickle("an unknown storage type");
  }
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

// OrderedDict(), or Python 2's OrderedDict([[key, value], ...]).
Value MakeDict(const Value& arguments) {
  Value dict{.kind = Kind::kDict};
  if (arguments.items.empty()) return dict;
  for (const Value* pair : arguments.items[0]->items) {
    if (pair->kind != Kind::kList || pair->items.size() != 2) continue;
    dict.items.insert(dict.items.end(), pair->items.begin(), pair->items.end());
  }
  return dict;
}

// What the few functions that torch.save makes a state_dict of would return.
absl::StatusOr<Value> CallKnown(const std::string& function,
                                const Value& arguments) {
  const auto& items = arguments.items;
  if (function == "collections OrderedDict") return MakeDict(arguments);
  if (function == "torch._utils _rebuild_tensor_v2" ||
      function == "torch._utils _rebuild_tensor") {
    return RebuildTensor(arguments);
  }
  if ((function == "torch._utils _rebuild_parameter" ||
       function == "torch._utils _rebuild_parameter_with_state") &&
      !items.empty()) {
    return *items[0];
  }
  // A tensor with attributes: (function, type, its arguments, attributes).
  if (function == "torch._tensor _rebuild_from_type_v2" && items.size() == 4 &&
      items[0]->text == "torch._utils _rebuild_tensor_v2") {
    return RebuildTensor(*items[2]);
  }
  return Value{.kind = Kind::kCall, .text = function};
}

// What `dict` holds in the place of a state_dict; null if nothing.
const Value* WrappedIn(const Value& dict) {
  for (const char* name : {"state_dict", "model_state_dict", "model"}) {
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const Kind kind = dict.items[i + 1]->kind;
      if (dict.items[i]->kind == Kind::kString && dict.items[i]->text == name &&
          (kind == Kind::kDict || kind == Kind::kObject ||
           kind == Kind::kCall)) {
        return dict.items[i + 1];
      }
    }
  }
  return nullptr;
}

const Value& Unwrap(const Value& top) {
  const Value* value = &top;
  for (int i = 0; i < kMaxWrappers && value->kind == Kind::kDict; ++i) {
    const Value* inner = WrappedIn(*value);
    if (inner == nullptr) break;
    value = inner;
  }
  return *value;
}

// Why `value` is not a state_dict.
absl::Status NotAStateDict(const Value& value) {
  const std::string text = value.text.substr(0, 100);
  switch (value.kind) {
    case Kind::kObject:
      return absl::InvalidArgumentError(
          absl::StrCat("a whole pickled model (\"", text,
                       "\"), which Python alone can load; ", kSaveStateDict));
    case Kind::kCall:
      return absl::InvalidArgumentError(
          absl::StrCat("refused: the pickle would call \"", text,
                       "\", which no state_dict needs; ", kSaveStateDict));
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("not a state_dict; ", kSaveStateDict));
  }
}

// Why the entry `key` of a state_dict is not a tensor.
absl::Status NotATensor(const Value& key, const Value& value) {
  const std::string name = key.text.substr(0, 100);
  const std::string text = value.text.substr(0, 100);
  if (value.kind == Kind::kCall) {
    return absl::InvalidArgumentError(
        absl::StrCat("refused: for \"", name, "\" the pickle would call \"",
                     text, "\", which no state_dict needs"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "not a state_dict: \"", name, "\" is no tensor; ", kSaveStateDict));
}

}  // namespace

absl::StatusOr<PickledStateDict> ConsumeStateDictPickle(
    absl::string_view& pickle) {
  PickleMachine machine(pickle, CallKnown);
  ASSIGN_OR_RETURN(const Value* top, machine.Run());
  const Value& dict = Unwrap(*top);
  if (dict.kind != Kind::kDict) return NotAStateDict(dict);
  PickledStateDict state;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const Value& key = *dict.items[i];
    const Value& value = *dict.items[i + 1];
    if (key.kind != Kind::kString || value.kind != Kind::kTensor) {
      return NotATensor(key, value);
    }
    state.tensors.push_back(value.tensor);
    state.tensors.back().name = key.text;
  }
  for (const Value* storage : machine.storages()) {
    state.storage_types[storage->items[1]->text] = StorageType(*storage);
  }
  return state;
}

absl::StatusOr<std::vector<std::string>> ConsumeStringListPickle(
    absl::string_view& pickle) {
  PickleMachine machine(pickle, CallKnown);
  ASSIGN_OR_RETURN(const PickleValue* top, machine.Run());
  std::vector<std::string> strings;
  for (const Value* item : top->items) strings.push_back(item->text);
  return strings;
}

absl::StatusOr<bool> ConsumeIsLittleEndianPickle(absl::string_view& pickle) {
  PickleMachine machine(pickle, CallKnown);
  ASSIGN_OR_RETURN(const Value* top, machine.Run());
  for (size_t i = 0; i + 1 < top->items.size(); i += 2) {
    if (top->items[i]->text != "little_endian") continue;
    return top->items[i + 1]->number != 0;
  }
  return true;
}

absl::Status SkipPickle(absl::string_view& pickle) {
  return PickleMachine(pickle, CallKnown).Run().status();
}

}  // namespace finetune
