// Any bytes are tensors that own their memory, or an error; nothing is
// executed.

#include <cstdint>

#include "common/testing/read_all.h"
#include "server/model/torch_file.h"

// LibTorch's reader loses its zip directory, of the size of the file's, where
// its constructor throws. A process reads one file.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:mz_zip_reader_";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<finetune::StateDict> state =
      finetune::IsTorchZip(bytes) ? finetune::ParseTorchZip(bytes)
                                  : finetune::ParseTorchLegacy(bytes);
  if (!state.ok()) return 0;
  for (const auto& [name, tensor] : *state) {
    finetune::testing::ReadAll(tensor.const_data_ptr(), tensor.nbytes());
  }
  return 0;
}
