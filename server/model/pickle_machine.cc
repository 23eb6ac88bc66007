#include "server/model/pickle_machine.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

constexpr size_t kMaxValues = 100'000;

using Value = PickleValue;
using Kind = PickleValue::Kind;

}  // namespace

absl::Status MalformedPickle(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed pickle: ", what));
}

absl::StatusOr<const Value*> PickleMachine::Run() {
  bool stopped = false;
  while (!stopped) {
    ASSIGN_OR_RETURN(const uint64_t opcode, TakeUnsigned(1));
    RETURN_IF_ERROR(Step(static_cast<uint8_t>(opcode), stopped));
  }
  return Pop();
}

absl::Status PickleMachine::Step(uint8_t opcode, bool& stopped) {
  if (opcode == '.') {  // STOP
    stopped = true;
    return absl::OkStatus();
  }
  for (const auto step :
       {&PickleMachine::StepConstant, &PickleMachine::StepContainer,
        &PickleMachine::StepMemo, &PickleMachine::StepCall}) {
    bool known = true;
    RETURN_IF_ERROR((this->*step)(opcode, known));
    if (known) return absl::OkStatus();
  }
  return MalformedPickle(
      absl::StrCat("opcode ", opcode, " is not of a state_dict"));
}

absl::Status PickleMachine::StepConstant(uint8_t opcode, bool& known) {
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

absl::Status PickleMachine::StepContainer(uint8_t opcode, bool& known) {
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
      if (items.size() % 2 != 0)
        return MalformedPickle("a key without a value");
      return Extend(std::move(items), Kind::kDict);
    }
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status PickleMachine::StepMemo(uint8_t opcode, bool& known) {
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

absl::Status PickleMachine::StepCall(uint8_t opcode, bool& known) {
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
        return MalformedPickle("not a storage");
      }
      return Push({.kind = Kind::kStorage,
                   .items = {id->items.begin() + 1, id->items.begin() + 5}});
    }
    case 'R': {  // REDUCE
      ASSIGN_OR_RETURN(const Value* arguments, Pop());
      ASSIGN_OR_RETURN(const Value* function, Pop());
      if (function->kind != Kind::kGlobal || arguments->kind != Kind::kList) {
        return MalformedPickle("a call of something that is no function");
      }
      ASSIGN_OR_RETURN(Value result, call_(function->text, *arguments));
      return Push(std::move(result));
    }
    case 'b':  // BUILD: attributes of the object below, here only _metadata.
      return Pop().status();
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::StatusOr<absl::string_view> PickleMachine::Take(size_t n) {
  if (n > input_.size()) return MalformedPickle("it ends early");
  const absl::string_view taken = input_.substr(0, n);
  input_.remove_prefix(n);
  return taken;
}

absl::StatusOr<uint64_t> PickleMachine::TakeUnsigned(size_t bytes) {
  ASSIGN_OR_RETURN(const absl::string_view taken, Take(bytes));
  uint64_t number = 0;
  for (size_t i = taken.size(); i-- > 0;) {
    number = number << 8 | static_cast<uint8_t>(taken[i]);
  }
  return number;
}

absl::StatusOr<absl::string_view> PickleMachine::TakeLine() {
  const size_t length = input_.find('\n');
  if (length == absl::string_view::npos)
    return MalformedPickle("it ends early");
  ASSIGN_OR_RETURN(const absl::string_view line, Take(length + 1));
  return line.substr(0, length);
}

absl::Status PickleMachine::Push(Value value) {
  if (values_.size() == kMaxValues) return MalformedPickle("too many values");
  values_.push_back(std::move(value));
  stack_.push_back(&values_.back());
  return absl::OkStatus();
}

absl::StatusOr<Value*> PickleMachine::Pop() {
  if (stack_.empty() || stack_.back() == nullptr) {
    return MalformedPickle("a value is missing");
  }
  Value* value = stack_.back();
  stack_.pop_back();
  return value;
}

absl::StatusOr<std::vector<const Value*>> PickleMachine::PopToMark() {
  size_t mark = stack_.size();
  do {
    if (mark == 0) return MalformedPickle("a mark is missing");
  } while (stack_[--mark] != nullptr);
  std::vector<const Value*> items(stack_.begin() + mark + 1, stack_.end());
  stack_.resize(mark);
  return items;
}

absl::Status PickleMachine::PushText(Kind kind, size_t length_bytes) {
  ASSIGN_OR_RETURN(const uint64_t length, TakeUnsigned(length_bytes));
  ASSIGN_OR_RETURN(const absl::string_view text, Take(length));
  return Push({.kind = kind, .text = std::string(text)});
}

absl::Status PickleMachine::PushTuple(size_t n) {
  Value tuple{.kind = Kind::kList};
  tuple.items.resize(n);
  while (n-- > 0) {
    ASSIGN_OR_RETURN(tuple.items[n], Pop());
  }
  return Push(std::move(tuple));
}

absl::Status PickleMachine::Extend(std::vector<const Value*> items, Kind into) {
  if (stack_.empty() || stack_.back() == nullptr ||
      stack_.back()->kind != into) {
    return MalformedPickle("nothing to add to");
  }
  auto& target = stack_.back()->items;
  if (target.size() + items.size() > kMaxValues) {
    return MalformedPickle("too many values");
  }
  target.insert(target.end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status PickleMachine::Memoize(uint64_t index) {
  if (stack_.empty() || stack_.back() == nullptr) {
    return MalformedPickle("nothing to remember");
  }
  memo_[index] = stack_.back();
  return absl::OkStatus();
}

absl::Status PickleMachine::Recall(uint64_t index) {
  const auto it = memo_.find(index);
  if (it == memo_.end()) return MalformedPickle("nothing was remembered there");
  stack_.push_back(it->second);
  // Bounds the stack, which would otherwise grow without new values.
  if (stack_.size() > kMaxValues) return MalformedPickle("too many values");
  return absl::OkStatus();
}

}  // namespace finetune
