#!/usr/bin/env bash
# Whether what collect.sh collects is all that the programs need beside LibTorch
# and glibc:
#   libraries_test.sh BIN_DIR LIBTORCH_DIR
# LIBTORCH_DIR is LibTorch's folder (it holds lib/), or the folder torch of a
# Python package, with NVIDIA's packages beside it.
set -euo pipefail

[[ $# -eq 2 ]] || { echo "usage: libraries_test.sh BIN_DIR LIBTORCH_DIR" >&2; exit 2; }
bin=$(realpath "$1") libtorch=$(realpath "$2")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=(finetuned finetune-trainer finetune finetune-load)

excluded=("$libtorch/lib")
shopt -s nullglob
for dir in "$libtorch"/../nvidia/*/lib; do excluded+=("$(realpath "$dir")"); done

kit=$(mktemp -d)
trap 'rm -rf "$kit"' EXIT
kit=$(realpath "$kit")
"$here/collect.sh" "$kit" "${excluded[@]}" -- "${programs[@]/#/$bin/}"

glibc='^(ld-linux.*|lib(c|m|dl|pthread|rt|resolv|util|anl|mvec|nsl))\.so'
driver='^lib(cuda|nvidia-.*)\.so'
path=$kit/lib:$(IFS=:; echo "${excluded[*]}"):$kit/lib_fallback

# is_allowed NAME PATH
is_allowed() {
  local dir file
  [[ $1 =~ $glibc || $1 =~ $driver ]] && return
  file=$(realpath "$2" 2>/dev/null) || return
  for dir in "$kit" "${excluded[@]}"; do
    [[ $file == "$dir"/* ]] && return
  done
  return 1
}

strangers=()
for program in "${programs[@]}"; do
  while read -r name found; do
    is_allowed "$name" "$found" || strangers+=("$program: $name ($found)")
  done < <(LD_LIBRARY_PATH=$path ldd "$kit/bin/$program" |
    sed -nE 's/^\s*(\S+) => (not found|\/\S+).*/\1 \2/p')
done
if [[ ${#strangers[@]} -gt 0 ]]; then
  echo "neither collected, nor LibTorch's or glibc's:" >&2
  printf '  %s\n' "${strangers[@]}" >&2
  exit 1
fi

# No two OpenMP runtimes: see collect.sh.
if compgen -G "$kit/lib/libgomp*" >/dev/null && compgen -G "$libtorch/lib/libgomp*" >/dev/null; then
  echo "a second libgomp was collected beside LibTorch's" >&2
  exit 1
fi
# Some builds of LibTorch show copies of C++ library functions, of which
# std::filesystem::remove_all calls a null pointer: libstdc++ must come first.
for program in "${programs[@]}"; do
  first=$(readelf -d "$kit/bin/$program" |
    sed -nE 's/.*NEEDED.*\[(libstdc\+\+|libtorch[a-z_]*)\.so.*/\1/p' | awk 'NR == 1')
  if [[ $first != libstdc++ ]]; then
    echo "$program loads $first before libstdc++, whose functions it may replace" >&2
    exit 1
  fi
done

libraries=("$kit"/lib/* "$kit"/lib_fallback/*)
echo "${#programs[@]} programs, ${#libraries[@]} libraries: nothing is missing"
