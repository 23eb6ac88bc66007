// How long a test is to go on, where the suite's short form is not enough.

#ifndef SERVER_TESTING_SETTING_H_
#define SERVER_TESTING_SETTING_H_

#include <cstdlib>

namespace finetune::testing {

// The number in the environment variable `name`, or `fallback` without it.
inline int Setting(const char* name, int fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::atoi(text);
}

}  // namespace finetune::testing

#endif  // SERVER_TESTING_SETTING_H_
