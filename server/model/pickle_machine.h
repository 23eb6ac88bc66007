// The stack machine that a pickle is a program for, without the power to call
// anything by itself: calls are handed to a function.

#ifndef SERVER_MODEL_PICKLE_MACHINE_H_
#define SERVER_MODEL_PICKLE_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/pickle.h"

namespace finetune {

struct PickleValue {
  enum class Kind {
    kOther,    // Of no interest: None, float, ...
    kInt,      // number; also bool.
    kString,   // text.
    kGlobal,   // text: "module name".
    kList,     // items; also tuple.
    kDict,     // items: key, value, key, value, ...
    kStorage,  // items: type, key, location, size.
    kTensor,   // tensor.
    kCall,     // text: what a call that is not known would have called.
    kObject,   // text: the class, "module name", of an object.
  };
  Kind kind = Kind::kOther;
  int64_t number = 0;
  std::string text;
  std::vector<const PickleValue*> items;
  PickledTensor tensor;
};

// INVALID_ARGUMENT.
absl::Status MalformedPickle(absl::string_view what);

// The stack machine. Values live as long as it does and refer to each other by
// pointer, so a cycle in a hostile pickle neither leaks nor recurses.
class PickleMachine {
 public:
  // The result of calling `function`, "module name", with a list of arguments.
  using CallFn = std::function<absl::StatusOr<PickleValue>(
      const std::string& function, const PickleValue& arguments)>;

  PickleMachine(absl::string_view& input, CallFn call)
      : input_(input), call_(std::move(call)) {}

  // Runs one pickle, and advances the input past it. The value it leaves lives
  // as long as the machine. What is added to a kCall, kObject or kOther, such
  // as the items of a set, is dropped. INVALID_ARGUMENT if it is malformed,
  // holds more than 100,000 values, or `call` refuses.
  absl::StatusOr<const PickleValue*> Run();

  // The storages that the pickle names, in order; with repeats.
  const std::vector<const PickleValue*>& storages() const { return storages_; }

 private:
  absl::Status Step(uint8_t opcode, bool& stopped);
  absl::Status StepConstant(uint8_t opcode, bool& known);
  absl::Status StepBytes(uint8_t opcode, bool& known);
  absl::Status StepContainer(uint8_t opcode, bool& known);
  absl::Status StepSet(uint8_t opcode, bool& known);
  absl::Status StepMemo(uint8_t opcode, bool& known);
  absl::Status StepCall(uint8_t opcode, bool& known);
  absl::Status StepObject(uint8_t opcode, bool& known);

  absl::StatusOr<absl::string_view> Take(size_t n);
  absl::StatusOr<uint64_t> TakeUnsigned(size_t bytes);
  absl::StatusOr<absl::string_view> TakeLine();

  absl::Status Push(PickleValue value);
  absl::StatusOr<PickleValue*> Pop();
  absl::StatusOr<std::vector<const PickleValue*>> PopToMark();
  absl::Status PushText(PickleValue::Kind kind, size_t length_bytes);
  absl::Status PushInteger(size_t bytes);
  absl::Status PushLong(size_t length_bytes);
  absl::Status PushTuple(size_t n);
  absl::Status PushPersistent();
  absl::Status PushObject(size_t arguments);
  absl::Status Reduce();
  absl::Status Extend(std::vector<const PickleValue*> items,
                      PickleValue::Kind into);
  absl::Status Memoize(uint64_t index);
  absl::Status Recall(uint64_t index);

  absl::string_view& input_;
  const CallFn call_;
  std::deque<PickleValue> values_;
  std::vector<PickleValue*> stack_;  // nullptr is a mark.
  std::map<uint64_t, PickleValue*> memo_;
  std::vector<const PickleValue*> storages_;
};

}  // namespace finetune

#endif  // SERVER_MODEL_PICKLE_MACHINE_H_
