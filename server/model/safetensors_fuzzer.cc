// Any bytes are tensors that own their memory, or an error.

#include <cstdint>

#include "common/testing/read_all.h"
#include "server/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto state =
      finetune::ParseSafetensors({reinterpret_cast<const char*>(data), size});
  if (!state.ok()) return 0;
  for (const auto& [name, tensor] : *state) {
    finetune::testing::ReadAll(tensor.const_data_ptr(), tensor.nbytes());
  }
  return 0;
}
