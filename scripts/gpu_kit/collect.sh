#!/usr/bin/env bash
# Collects what programs need on another machine that has LibTorch, and glibc
# as new as this one's:
#   collect.sh OUT EXCLUDED_DIR... -- PROGRAM...
#     OUT/bin            the programs, stripped
#     OUT/lib            the shared libraries they load
#     OUT/lib_fallback   the C++ library and GCC's own: any machine has them,
#                        and must not load older ones than it has
# Left out: what an EXCLUDED_DIR has (LibTorch, NVIDIA's libraries), also where
# the system has a library of the same name. So a process loads one OpenMP
# runtime, LibTorch's: two would each start threads, and oneDNN's would not be
# those that LibTorch counts. Left out, too: glibc, which goes with the kernel's
# loader of that machine, and the driver's libraries.
set -euo pipefail

usage() {
  echo "usage: collect.sh OUT EXCLUDED_DIR... -- PROGRAM..." >&2
  exit 2
}

[[ $# -ge 3 ]] || usage
out=$1
shift
excluded=()
while [[ $# -gt 0 && $1 != -- ]]; do
  [[ -d $1 ]] || { echo "collect.sh: no folder $1" >&2; exit 1; }
  excluded+=("$(realpath "$1")")
  shift
done
[[ $# -ge 2 ]] || usage
shift

glibc='^(ld-linux.*|lib(c|m|dl|pthread|rt|resolv|util|anl|mvec|nsl))\.so'
driver='^lib(cuda|nvidia-.*)\.so'
fallback='^lib(stdc\+\+|gcc_s)\.so'

# is_excluded NAME PATH
is_excluded() {
  local name=$1 path dir
  path=$(realpath "$2")
  [[ $name =~ $glibc || $name =~ $driver ]] && return
  for dir in "${excluded[@]}"; do
    [[ -e $dir/$name || $path == "$dir"/* ]] && return
  done
  return 1
}

mkdir -p "$out/bin" "$out/lib" "$out/lib_fallback"
install --strip --mode 755 "$@" "$out/bin"

found=$(ldd "$@")
missing=$(sed -nE 's/^\s*(\S+) => not found.*/\1/p' <<<"$found" | sort -u |
  grep -vE "$driver" || true)
[[ -z $missing ]] || { echo "collect.sh: not found: ${missing//$'\n'/ }" >&2; exit 1; }

while read -r name path; do
  is_excluded "$name" "$path" && continue
  folder=$out/lib
  [[ $name =~ $fallback ]] && folder=$out/lib_fallback
  install --mode 644 "$path" "$folder/$name"
done < <(sed -nE 's/^\s*(\S+) => (\/\S+) .*/\1 \2/p' <<<"$found" | sort -u)
