// Errors after which a process cannot go on. A CUDA context that has failed
// stays so: every later call fails, too, and only a new process helps.

#ifndef SERVER_INFERENCE_FATAL_ERRORS_H_
#define SERVER_INFERENCE_FATAL_ERRORS_H_

#include <exception>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace finetune {

// Whether Torch's `what` speaks of a CUDA error that stays. Lack of memory
// passes.
inline bool IsStickyCudaError(absl::string_view what) {
  return absl::StrContains(what, "CUDA error") &&
         !absl::StrContains(what, "CUDA error: out of memory");
}

// `function`, which tells `on_fatal(message)` of a sticky CUDA error before it
// throws it on. For functions that run a model.
template <typename Function, typename OnFatal>
auto ReportingFatalErrors(Function function, OnFatal on_fatal) {
  return [function = std::move(function),
          on_fatal = std::move(on_fatal)](auto&&... arguments) {
    try {
      return function(std::forward<decltype(arguments)>(arguments)...);
    } catch (const std::exception& e) {
      if (IsStickyCudaError(e.what())) on_fatal(std::string(e.what()));
      throw;
    }
  };
}

}  // namespace finetune

#endif  // SERVER_INFERENCE_FATAL_ERRORS_H_
