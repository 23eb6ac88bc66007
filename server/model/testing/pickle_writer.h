// Pickles for tests, put together from parts as Python's pickler writes them at
// protocol 2 or, by STACK_GLOBAL and with a frame, 5.

#ifndef SERVER_MODEL_TESTING_PICKLE_WRITER_H_
#define SERVER_MODEL_TESTING_PICKLE_WRITER_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace finetune::testing {

// `count` bytes, little-endian.
inline std::string PickledBytes(uint64_t number, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    bytes += static_cast<char>(number >> 8 * i);
  }
  return bytes;
}

struct PickleWriter {
  using Parts = std::vector<std::string>;
  using Entries = std::vector<std::pair<std::string, std::string>>;

  int protocol = 2;

  std::string Number(uint32_t number) const {
    return absl::StrCat("J", PickledBytes(number, 4));
  }
  std::string Text(const std::string& text) const {
    if (protocol < 4) {
      return absl::StrCat("X", PickledBytes(text.size(), 4), text);
    }
    return absl::StrCat("\x8c", PickledBytes(text.size(), 1), text, "\x94");
  }
  std::string Global(const std::string& module, const std::string& name) const {
    if (protocol < 4) return absl::StrCat("c", module, "\n", name, "\n");
    return absl::StrCat(Text(module), Text(name), "\x93\x94");
  }
  std::string Tuple(const Parts& items) const {
    std::string tuple = "(";
    for (const std::string& item : items) tuple += item;
    return tuple + "t";
  }
  std::string List(const Parts& items) const {
    std::string list = "](";
    for (const std::string& item : items) list += item;
    return list + "e";
  }
  std::string Dict(const Entries& entries) const {
    std::string dict = "}(";
    for (const auto& [key, value] : entries) dict += Text(key) + value;
    return dict + "u";
  }
  std::string Call(const std::string& function, const Parts& arguments) const {
    return function + Tuple(arguments) + "R";
  }
  // An object of the class, with one attribute.
  std::string Object(const std::string& type) const {
    return absl::StrCat(type, ")\x81", Dict({{"a", Number(1)}}), "b");
  }
  std::string Numbers(std::initializer_list<uint32_t> numbers) const {
    Parts parts;
    for (const uint32_t number : numbers) parts.push_back(Number(number));
    return Tuple(parts);
  }
  // A view of `elements` elements of type `storage_type` from the first one.
  std::string Tensor(const std::string& key, const std::string& storage_type,
                     uint32_t elements, const std::string& sizes,
                     const std::string& strides) const {
    const std::string storage =
        Tuple({Text("storage"), Global("torch", storage_type), Text(key),
               Text("cpu"), Number(elements)}) +
        "Q";
    return Call(Global("torch._utils", "_rebuild_tensor_v2"),
                {storage, Number(0), sizes, strides, "\x89",
                 Call(Global("collections", "OrderedDict"), {})});
  }
  std::string Vector(const std::string& key, const std::string& storage_type,
                     uint32_t elements) const {
    return Tensor(key, storage_type, elements, Numbers({elements}),
                  Numbers({1}));
  }
  // The whole pickle that leaves `value`.
  std::string Whole(const std::string& value) const {
    const std::string body = value + ".";
    const std::string proto =
        absl::StrCat("\x80", PickledBytes(static_cast<uint64_t>(protocol), 1));
    if (protocol < 4) return absl::StrCat(proto, body);
    return absl::StrCat(proto, "\x95", PickledBytes(body.size(), 8), body);
  }
};

}  // namespace finetune::testing

#endif  // SERVER_MODEL_TESTING_PICKLE_WRITER_H_
