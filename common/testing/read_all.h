// For fuzzers.

#ifndef COMMON_TESTING_READ_ALL_H_
#define COMMON_TESTING_READ_ALL_H_

#include <cstddef>
#include <cstdint>

namespace finetune::testing {

// Reads every byte, so that AddressSanitizer sees one that is not there.
inline void ReadAll(const void* bytes, size_t size) {
  const auto* const from = static_cast<const volatile uint8_t*>(bytes);
  for (size_t i = 0; i < size; ++i) static_cast<void>(from[i]);
}

}  // namespace finetune::testing

#endif  // COMMON_TESTING_READ_ALL_H_
