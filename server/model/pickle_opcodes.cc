// What each opcode of a pickle does. Format: CPython's Lib/pickletools.py.

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/model/pickle_machine.h"

namespace finetune {
namespace {

using Value = PickleValue;
using Kind = PickleValue::Kind;

}  // namespace

absl::Status PickleMachine::Step(uint8_t opcode, bool& stopped) {
  if (opcode == '.') {  // STOP
    stopped = true;
    return absl::OkStatus();
  }
  for (const auto step :
       {&PickleMachine::StepConstant, &PickleMachine::StepBytes,
        &PickleMachine::StepContainer, &PickleMachine::StepSet,
        &PickleMachine::StepMemo, &PickleMachine::StepCall,
        &PickleMachine::StepObject}) {
    bool known = true;
    RETURN_IF_ERROR((this->*step)(opcode, known));
    if (known) return absl::OkStatus();
  }
  return MalformedPickle(
      absl::StrCat("opcode ", opcode, " is not of a state_dict"));
}

absl::Status PickleMachine::StepConstant(uint8_t opcode, bool& known) {
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
      return PushInteger(1);
    case 'M':  // BININT2
      return PushInteger(2);
    case 'J':  // BININT
      return PushInteger(4);
    case 0x8a:  // LONG1
      return PushLong(1);
    case 0x8b:  // LONG4
      return PushLong(4);
    case 'G':  // BINFLOAT
      RETURN_IF_ERROR(Take(8).status());
      return Push({});
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status PickleMachine::StepBytes(uint8_t opcode, bool& known) {
  switch (opcode) {
    case 'U':   // SHORT_BINSTRING
    case 0x8c:  // SHORT_BINUNICODE
      return PushText(Kind::kString, 1);
    case 'T':  // BINSTRING
    case 'X':  // BINUNICODE
      return PushText(Kind::kString, 4);
    case 0x8d:  // BINUNICODE8
      return PushText(Kind::kString, 8);
    case 'C':  // SHORT_BINBYTES
      return PushText(Kind::kOther, 1);
    case 'B':  // BINBYTES
      return PushText(Kind::kOther, 4);
    case 0x8e:  // BINBYTES8
    case 0x96:  // BYTEARRAY8
      return PushText(Kind::kOther, 8);
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

// Of no interest, but for what they take off the stack.
absl::Status PickleMachine::StepSet(uint8_t opcode, bool& known) {
  switch (opcode) {
    case 0x8f:  // EMPTY_SET
      return Push({});
    case 0x90:  // ADDITEMS
      return PopToMark().status();
    case 0x91:  // FROZENSET
      RETURN_IF_ERROR(PopToMark().status());
      return Push({});
    case '0':  // POP
      return Pop().status();
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
    case 'Q':  // BINPERSID
      return PushPersistent();
    case 'R':  // REDUCE
      return Reduce();
    default:
      known = false;
      return absl::OkStatus();
  }
}

absl::Status PickleMachine::StepObject(uint8_t opcode, bool& known) {
  switch (opcode) {
    case 0x81:  // NEWOBJ: class, positional arguments
      return PushObject(1);
    case 0x92:  // NEWOBJ_EX: and named ones
      return PushObject(2);
    case 'b':  // BUILD: attributes of the object below, which are not needed.
      return Pop().status();
    default:
      known = false;
      return absl::OkStatus();
  }
}

}  // namespace finetune
