// Errors after which a process cannot go on. A CUDA context that has failed
// stays so: every later call fails, too, and only a new process helps.

#ifndef SERVER_INFERENCE_FATAL_ERRORS_H_
#define SERVER_INFERENCE_FATAL_ERRORS_H_

#include <exception>
#include <string>
#include <utility>

namespace finetune {

// `function`, but when it throws and the device then does not work any more
// (`works()`, which is asked only then), `on_fatal(message)` hears of it before
// the exception goes on. For functions that run a model. What an error says is
// no guide: some that stay do not name CUDA, and many that do name it pass.
template <typename Function, typename Works, typename OnFatal>
auto ReportingFatalErrors(Function function, Works works, OnFatal on_fatal) {
  return [function = std::move(function), works = std::move(works),
          on_fatal = std::move(on_fatal)](auto&&... arguments) {
    try {
      return function(std::forward<decltype(arguments)>(arguments)...);
    } catch (const std::exception& e) {
      if (!works()) on_fatal(std::string(e.what()));
      throw;
    }
  };
}

}  // namespace finetune

#endif  // SERVER_INFERENCE_FATAL_ERRORS_H_
