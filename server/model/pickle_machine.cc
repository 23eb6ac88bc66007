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
  if (kind == Kind::kOther) return Push({});
  return Push({.kind = kind, .text = std::string(text)});
}

absl::Status PickleMachine::PushInteger(size_t bytes) {
  ASSIGN_OR_RETURN(const uint64_t number, TakeUnsigned(bytes));
  // BININT alone has a sign.
  return Push({.kind = Kind::kInt,
               .number = bytes == 4 ? static_cast<int32_t>(number)
                                    : static_cast<int64_t>(number)});
}

// What is longer than 8 bytes, such as torch's magic number, is of no interest.
absl::Status PickleMachine::PushLong(size_t length_bytes) {
  ASSIGN_OR_RETURN(const uint64_t length, TakeUnsigned(length_bytes));
  if (length > 8) {
    RETURN_IF_ERROR(Take(length).status());
    return Push({});
  }
  ASSIGN_OR_RETURN(const uint64_t bits, TakeUnsigned(length));
  const size_t unused = 64 - 8 * length;
  return Push({.kind = Kind::kInt,
               .number = length == 0
                             ? 0
                             : static_cast<int64_t>(bits << unused) >> unused});
}

absl::Status PickleMachine::PushTuple(size_t n) {
  Value tuple{.kind = Kind::kList};
  tuple.items.resize(n);
  while (n-- > 0) {
    ASSIGN_OR_RETURN(tuple.items[n], Pop());
  }
  return Push(std::move(tuple));
}

// ("storage", type, key, location, size) or, before PyTorch 1.6, also
// ("module", class, file, source).
absl::Status PickleMachine::PushPersistent() {
  ASSIGN_OR_RETURN(const Value* id, Pop());
  if (id->kind == Kind::kList && id->items.size() == 4 &&
      id->items[0]->text == "module") {
    return Push({.kind = Kind::kGlobal, .text = id->items[1]->text});
  }
  if (id->kind != Kind::kList || id->items.size() < 5) {
    return MalformedPickle("not a storage");
  }
  RETURN_IF_ERROR(
      Push({.kind = Kind::kStorage,
            .items = {id->items.begin() + 1, id->items.begin() + 5}}));
  storages_.push_back(stack_.back());
  return absl::OkStatus();
}

absl::Status PickleMachine::PushObject(size_t arguments) {
  for (size_t i = 0; i < arguments; ++i) RETURN_IF_ERROR(Pop().status());
  ASSIGN_OR_RETURN(const Value* type, Pop());
  return Push({.kind = Kind::kObject, .text = type->text});
}

absl::Status PickleMachine::Reduce() {
  ASSIGN_OR_RETURN(const Value* arguments, Pop());
  ASSIGN_OR_RETURN(const Value* function, Pop());
  if (arguments->kind != Kind::kList) {
    return MalformedPickle("a call without arguments");
  }
  switch (function->kind) {
    case Kind::kGlobal: {
      ASSIGN_OR_RETURN(Value result, call_(function->text, *arguments));
      return Push(std::move(result));
    }
    case Kind::kCall:  // What a call would return, or an object, is called.
    case Kind::kObject:
      return Push({.kind = Kind::kCall, .text = function->text});
    default:
      return MalformedPickle("a call of something that is no function");
  }
}

absl::Status PickleMachine::Extend(std::vector<const Value*> items, Kind into) {
  if (stack_.empty() || stack_.back() == nullptr) {
    return MalformedPickle("nothing to add to");
  }
  const Kind kind = stack_.back()->kind;
  if (kind == Kind::kCall || kind == Kind::kObject || kind == Kind::kOther) {
    return absl::OkStatus();
  }
  if (kind != into) return MalformedPickle("nothing to add to");
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
