#!/usr/bin/env bash
# Collects what it takes to build the part of finetuned that computes where none
# of its libraries are installed: headers, CMake files, protoc.
#   sdk.sh OUT LIB_DIR
#     OUT/usr   as Debian lays it out; a shared library that LIB_DIR has is a
#               relative link to it, so OUT and LIB_DIR must travel together
# Debian only: the packages' lists of files are taken.
set -euo pipefail

[[ $# -eq 2 ]] || { echo "usage: sdk.sh OUT LIB_DIR" >&2; exit 2; }
out=$1 lib=$2
packages=(libabsl-dev libprotobuf-dev protobuf-compiler libssl-dev libdnnl-dev
  libjpeg62-turbo-dev nlohmann-json3-dev libcli11-dev libgtest-dev libgmock-dev
  libbenchmark-dev)
dpkg-query --status libjpeg62-turbo-dev >/dev/null 2>&1 ||
  packages=("${packages[@]/libjpeg62-turbo-dev/libjpeg-turbo8-dev}")

wanted='^/usr/(include|lib/x86_64-linux-gnu|share/cmake|bin/protoc)'
mkdir -p "$out"
out=$(realpath "$out") lib=$(realpath "$lib")

# add_library PATH: the file, under all names that it is linked or loaded by.
add_library() {
  local file folder soname name
  file=$(realpath "$1")
  folder=$out/usr/lib/x86_64-linux-gnu
  soname=$(readelf -d "$file" | sed -nE 's/.*SONAME.*\[(.*)\]/\1/p')
  mkdir -p "$folder"
  if [[ -e $lib/$soname ]]; then
    ln -sf "$(realpath --relative-to "$folder" "$lib/$soname")" "$folder/${file##*/}"
  else
    install --mode 644 "$file" "$folder/${file##*/}"
  fi
  for name in "$soname" "$(basename "$1")"; do
    [[ $name == "${file##*/}" ]] || ln -sf "${file##*/}" "$folder/$name"
  done
}

while read -r file; do
  [[ -f $file ]] || continue
  case $file in
    # Linked as shared libraries; GoogleTest has no other.
    *.a) [[ $file =~ /lib(gtest|gmock|gtest_main|gmock_main|benchmark_main)\.a$ ]] || continue ;;
    *.so) add_library "$file"; continue ;;
    */pkgconfig/*) continue ;;
  esac
  install -D --mode "$(stat -L -c %a "$file")" "$file" "$out$file"
done < <(dpkg-query --listfiles "${packages[@]}" | grep -E "$wanted" | sort -u)

# What protoc loads.
while read -r file; do add_library "$file"; done < <(
  ldd /usr/bin/protoc | sed -nE 's/.* => (\/\S*libproto\S+) .*/\1/p')
