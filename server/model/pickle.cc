#include "server/model/pickle.h"

#include <cstddef>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

constexpr size_t kMaxValues = 100'000;
constexpr int64_t kMaxElements = int64_t{1} << 40;

struct Value {
  enum class Kind {
    kOther,    // Of no interest: None, float, ...
    kInt,      // number; also bool.
    kString,   // text.
    kGlobal,   // text: "module name".
    kList,     // items; also tuple.
    kDict,     // items: key, value, key, value, ...
    kStorage,  // items: type, key, location, size.
    kTensor,   // tensor.
  };
  Kind kind = Kind::kOther;
  int64_t number = 0;
  std::string text;
  std::vector<const Value*> items;
  PickledTensor tensor;
};
using Kind = Value::Kind;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed pickle: ", what));
}

// The stack machine. Values live as long as it does and refer to each other by
// pointer, so a cycle in a hostile pickle neither leaks nor recurses.
class Machine {
 public:
  explicit Machine(absl::string_view& input) : input_(input) {}

  absl::StatusOr<const Value*> Run();

 private:
  absl::Status Step(uint8_t opcode, bool& stopped);
  absl::Status StepConstant(uint8_t opcode, bool& known);
  absl::Status StepContainer(uint8_t opcode, bool& known);
  absl::Status StepMemo(uint8_t opcode, bool& known);
  absl::Status StepCall(uint8_t opcode, bool& known);

  absl::StatusOr<absl::string_view> Take(size_t n);
  absl::StatusOr<uint64_t> TakeUnsigned(size_t bytes);
  absl::StatusOr<absl::string_view> TakeLine();

  absl::Status Push(Value value);
  absl::StatusOr<Value*> Pop();
  absl::StatusOr<std::vector<const Value*>> PopToMark();
  absl::Status PushText(Kind kind, size_t length_bytes);
  absl::Status PushTuple(size_t n);
  absl::Status Extend(std::vector<const Value*> items, Kind into);
  absl::Status Memoize(uint64_t index);
  absl::Status Recall(uint64_t index);

  absl::Status Call(const std::string& function, const Value& arguments);
  absl::Status RebuildTensor(const Value& arguments);

  absl::string_view& input_;
  std::deque<Value> values_;
  std::vector<Value*> stack_;  // nullptr is a mark.
  std::map<uint64_t, Value*> memo_;
};

absl::StatusOr<const Value*> Machine::Run() {
  bool stopped = false;
  while (!stopped) {
    ASSIGN_OR_RETURN(const uint64_t opcode, TakeUnsigned(1));
    RETURN_IF_ERROR(Step(static_cast<uint8_t>(opcode), stopped));
  }
  return Pop();
}

absl::Status Machine::Step(uint8_t opcode, bool& stopped) {
  if (opcode == '.') {  // STOP
    stopped = true;
    return absl::OkStatus();
  }
  for (const auto step : {&Machine::StepConstant, &Machine::StepContainer,
                          &Machine::StepMemo, &Machine::StepCall}) {
    bool known = true;
    RETURN_IF_ERROR((this->*step)(opcode, known));
    if (known) return absl::OkStatus();
  }
  return Malformed(absl::StrCat("opcode ", opcode, " is not of a state_dict"));
}

absl::Status Machine::StepConstant(uint8_t opcode, bool& known) {
  const auto integer = [&](size_t bytes) -> absl::Status {
    ASSIGN_OR_RETURN(const uint64_t number, TakeUnsigned(bytes));
    // BININT alone has a sign.
    return Push({.kind = Kind::kInt,
                 .number = bytes == 4 ? static_cast<int32_t>(number)
                                      : static_cast<int64_t>(number)});
  };
  switch (opcode) {
    case 0x80:  // PROTO
      return Take(1).status();
    case 0x95:  // FRAME
      return Take(8).status();
    case 'N':  // NONE
      return Push({});
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      return Push({.kind = Kind::kInt, .number = opcode == 0x88});
    case 'K':  // BININT1
      return integer(1);
    case 'M':  // BININT2
      return integer(2);
    case 'J':  // BININT
      return integer(4);
    case 0x8a: {  // LONG1: longer than 8 bytes only in torch's magic number.
      ASSIGN_OR_RETURN(const uint64_t length, TakeUnsigned(1));
      if (length > 8) {
        RETURN_IF_ERROR(Take(length).status());
        return Push({});
      }
      ASSIGN_OR_RETURN(const uint64_t bits, TakeUnsigned(length));
      const size_t unused = 64 - 8 * length;
      return Push(
          {.kind = Kind::kInt,
           .number = length == 0
                         ? 0
                         : static_cast<int64_t>(bits << unused) >> unused});
    }
    case 'G':  // BINFLOAT
      RETURN_IF_ERROR(Take(8).status());
      return Push({});
    case 'U':   // SHORT_BINSTRING
    case 0x8c:  // SHORT_BINUNICODE
      return PushText(Kind::kString, 1);
    case 'X':  // BINUNICODE
      return PushText(Kind::kString, 4);
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status Machine::StepContainer(uint8_t opcode, bool& known) {
  switch (opcode) {
    case '(':  // MARK
      stack_.push_back(nullptr);
      return absl::OkStatus();
    case ')':  // EMPTY_TUPLE
    case ']':  // EMPTY_LIST
      return Push({.kind = Kind::kList});
    case '}':  // EMPTY_DICT
      return Push({.kind = Kind::kDict});
    case 0x85:  // TUPLE1
    case 0x86:  // TUPLE2
    case 0x87:  // TUPLE3
      return PushTuple(opcode - 0x84);
    case 't': {  // TUPLE
      ASSIGN_OR_RETURN(auto items, PopToMark());
      return Push({.kind = Kind::kList, .items = std::move(items)});
    }
    case 'a': {  // APPEND
      ASSIGN_OR_RETURN(const Value* item, Pop());
      return Extend({item}, Kind::kList);
    }
    case 'e': {  // APPENDS
      ASSIGN_OR_RETURN(auto items, PopToMark());
      return Extend(std::move(items), Kind::kList);
    }
    case 's': {  // SETITEM
      ASSIGN_OR_RETURN(const Value* value, Pop());
      ASSIGN_OR_RETURN(const Value* key, Pop());
      return Extend({key, value}, Kind::kDict);
    }
    case 'u': {  // SETITEMS
      ASSIGN_OR_RETURN(auto items, PopToMark());
      if (items.size() % 2 != 0) return Malformed("a key without a value");
      return Extend(std::move(items), Kind::kDict);
    }
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status Machine::StepMemo(uint8_t opcode, bool& known) {
  switch (opcode) {
    case 'q':    // BINPUT
    case 'r': {  // LONG_BINPUT
      ASSIGN_OR_RETURN(const uint64_t index,
                       TakeUnsigned(opcode == 'q' ? 1 : 4));
      return Memoize(index);
    }
    case 0x94:  // MEMOIZE
      return Memoize(memo_.size());
    case 'h':    // BINGET
    case 'j': {  // LONG_BINGET
      ASSIGN_OR_RETURN(const uint64_t index,
                       TakeUnsigned(opcode == 'h' ? 1 : 4));
      return Recall(index);
    }
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status Machine::StepCall(uint8_t opcode, bool& known) {
  switch (opcode) {
    case 'c': {  // GLOBAL
      ASSIGN_OR_RETURN(const absl::string_view module, TakeLine());
      ASSIGN_OR_RETURN(const absl::string_view name, TakeLine());
      return Push(
          {.kind = Kind::kGlobal, .text = absl::StrCat(module, " ", name)});
    }
    case 0x93: {  // STACK_GLOBAL
      ASSIGN_OR_RETURN(const Value* name, Pop());
      ASSIGN_OR_RETURN(const Value* module, Pop());
      return Push({.kind = Kind::kGlobal,
                   .text = absl::StrCat(module->text, " ", name->text)});
    }
    case 'Q': {  // BINPERSID: ("storage", type, key, location, size)
      ASSIGN_OR_RETURN(const Value* id, Pop());
      if (id->kind != Kind::kList || id->items.size() < 5) {
        return Malformed("not a storage");
      }
      return Push({.kind = Kind::kStorage,
                   .items = {id->items.begin() + 1, id->items.begin() + 5}});
    }
    case 'R': {  // REDUCE
      ASSIGN_OR_RETURN(const Value* arguments, Pop());
      ASSIGN_OR_RETURN(const Value* function, Pop());
      if (function->kind != Kind::kGlobal || arguments->kind != Kind::kList) {
        return Malformed("a call of something that is no function");
      }
      return Call(function->text, *arguments);
    }
    case 'b':  // BUILD: attributes of the object below, here only _metadata.
      return Pop().status();
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::StatusOr<absl::string_view> Machine::Take(size_t n) {
  if (n > input_.size()) return Malformed("it ends early");
  const absl::string_view taken = input_.substr(0, n);
  input_.remove_prefix(n);
  return taken;
}

absl::StatusOr<uint64_t> Machine::TakeUnsigned(size_t bytes) {
  ASSIGN_OR_RETURN(const absl::string_view taken, Take(bytes));
  uint64_t number = 0;
  for (size_t i = taken.size(); i-- > 0;) {
    number = number << 8 | static_cast<uint8_t>(taken[i]);
  }
  return number;
}

absl::StatusOr<absl::string_view> Machine::TakeLine() {
  const size_t length = input_.find('\n');
  if (length == absl::string_view::npos) return Malformed("it ends early");
  ASSIGN_OR_RETURN(const absl::string_view line, Take(length + 1));
  return line.substr(0, length);
}

absl::Status Machine::Push(Value value) {
  if (values_.size() == kMaxValues) return Malformed("too many values");
  values_.push_back(std::move(value));
  stack_.push_back(&values_.back());
  return absl::OkStatus();
}

absl::StatusOr<Value*> Machine::Pop() {
  if (stack_.empty() || stack_.back() == nullptr) {
    return Malformed("a value is missing");
  }
  Value* value = stack_.back();
  stack_.pop_back();
  return value;
}

absl::StatusOr<std::vector<const Value*>> Machine::PopToMark() {
  size_t mark = stack_.size();
  do {
    if (mark == 0) return Malformed("a mark is missing");
  } while (stack_[--mark] != nullptr);
  std::vector<const Value*> items(stack_.begin() + mark + 1, stack_.end());
  stack_.resize(mark);
  return items;
}

absl::Status Machine::PushText(Kind kind, size_t length_bytes) {
  ASSIGN_OR_RETURN(const uint64_t length, TakeUnsigned(length_bytes));
  ASSIGN_OR_RETURN(const absl::string_view text, Take(length));
  return Push({.kind = kind, .text = std::string(text)});
}

absl::Status Machine::PushTuple(size_t n) {
  Value tuple{.kind = Kind::kList};
  tuple.items.resize(n);
  while (n-- > 0) {
    ASSIGN_OR_RETURN(tuple.items[n], Pop());
  }
  return Push(std::move(tuple));
}

absl::Status Machine::Extend(std::vector<const Value*> items, Kind into) {
  if (stack_.empty() || stack_.back() == nullptr ||
      stack_.back()->kind != into) {
    return Malformed("nothing to add to");
  }
  auto& target = stack_.back()->items;
  if (target.size() + items.size() > kMaxValues) {
    return Malformed("too many values");
  }
  target.insert(target.end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status Machine::Memoize(uint64_t index) {
  if (stack_.empty() || stack_.back() == nullptr) {
    return Malformed("nothing to remember");
  }
  memo_[index] = stack_.back();
  return absl::OkStatus();
}

absl::Status Machine::Recall(uint64_t index) {
  const auto it = memo_.find(index);
  if (it == memo_.end()) return Malformed("nothing was remembered there");
  stack_.push_back(it->second);
  // Bounds the stack, which would otherwise grow without new values.
  if (stack_.size() > kMaxValues) return Malformed("too many values");
  return absl::OkStatus();
}

absl::Status Machine::Call(const std::string& function,
                           const Value& arguments) {
  if (function == "collections OrderedDict") {
    return Push({.kind = Kind::kDict});
  }
  if (function == "torch._utils _rebuild_tensor_v2") {
    return RebuildTensor(arguments);
  }
  if (function == "torch._utils _rebuild_parameter" &&
      !arguments.items.empty()) {
    return Push(*arguments.items[0]);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("refused: the pickle would call \"", function.substr(0, 100),
                   "\", which no state_dict needs"));
}

absl::StatusOr<std::vector<int64_t>> Integers(const Value& list) {
  std::vector<int64_t> numbers;
  for (const Value* item : list.items) {
    if (item->kind != Kind::kInt || item->number < 0 ||
        item->number > kMaxElements) {
      return Malformed("a shape is not one");
    }
    numbers.push_back(item->number);
  }
  if (numbers.size() > 8) return Malformed("more than 8 dimensions");
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
absl::Status Machine::RebuildTensor(const Value& arguments) {
  const auto& items = arguments.items;
  if (items.size() < 4 || items[0]->kind != Kind::kStorage) {
    return Malformed("a tensor without a storage");
  }
  const auto& storage = items[0]->items;
  Value value{.kind = Kind::kTensor};
  PickledTensor& tensor = value.tensor;
  constexpr absl::string_view kTorch = "torch ";
  if (!absl::StartsWith(storage[0]->text, kTorch)) {
    return Malformed("an unknown storage type");
  }
  tensor.storage_type = storage[0]->text.substr(kTorch.size());
  tensor.storage_key = storage[1]->text;
  ASSIGN_OR_RETURN(const std::vector<int64_t> scalars,
                   Integers(Value{.items = {storage[3], items[1]}}));
  tensor.storage_size = scalars[0];
  tensor.offset = scalars[1];
  ASSIGN_OR_RETURN(tensor.sizes, Integers(*items[2]));
  ASSIGN_OR_RETURN(tensor.strides, Integers(*items[3]));
  if (!IsInside(tensor)) return Malformed("a tensor outside of its storage");
  return Push(std::move(value));
}

}  // namespace

absl::StatusOr<std::vector<PickledTensor>> ConsumeStateDictPickle(
    absl::string_view& pickle) {
  Machine machine(pickle);
  ASSIGN_OR_RETURN(const Value* top, machine.Run());
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
  Machine machine(pickle);
  ASSIGN_OR_RETURN(const Value* top, machine.Run());
  std::vector<std::string> strings;
  for (const Value* item : top->items) strings.push_back(item->text);
  return strings;
}

absl::Status SkipPickle(absl::string_view& pickle) {
  return Machine(pickle).Run().status();
}

}  // namespace finetune
