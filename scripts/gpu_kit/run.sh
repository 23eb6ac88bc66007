#!/usr/bin/env bash
# Proves the CUDA half of finetuned on this machine, without a network, within
# 8 minutes:
#   run.sh [--device cuda|cpu] [--parts a,b,c] [--out DIR] [--budget SECONDS]
#     --parts   of: tests, job, parity, forward, serving, training, crash,
#               memory, loads, neighbour; default: all
#     --out     folder for at most 8 files of logs; default: $OUT, or ./gpu_kit_out
# Needs Python 3 with PyTorch, torchvision and Pillow. Exit code 1 if a check
# failed. Reads OUT, and PYTHON (default: python3).
set -euo pipefail

started=$(date +%s)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
  echo "run.sh: $*" >&2
  exit 1
}

device=cuda out=${OUT:-gpu_kit_out} budget=480 parts=()
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || die "no value for $1"
  case $1 in
    --device) device=$2 ;;
    --parts) parts=(--parts "$2") ;;
    --out) out=$2 ;;
    --budget) budget=$2 ;;
    *) die "unknown option $1; it takes --device, --parts, --out and --budget" ;;
  esac
  shift 2
done
[[ $device =~ ^(cuda|cpu)$ ]] || die "--device is cuda or cpu, not $device"

# Sets `python`, `torch` (its folder) and `version`, without the seconds that
# an import takes.
find_torch() {
  local found candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python; do
    found=$("$candidate" - <<'PYTHON' 2>/dev/null
import importlib.util, pathlib, re
folder = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0])
text = (folder / "version.py").read_text()
print(folder, re.search(r"__version__ = '([0-9.]+)", text)[1], sep="\n")
PYTHON
    ) || continue
    python=$candidate
    { read -r torch && read -r version; } <<<"$found"
    return
  done
  die "no python3 with PyTorch here; set PYTHON to one that has it"
}

# The newest GLIBCXX version in a libstdc++, as 3.4.30; 0 for none.
cxx_version() {
  { grep -aoE 'GLIBCXX_3\.4\.[0-9]+' "$1" 2>/dev/null || echo _0; } |
    cut -d _ -f 2 | sort -V | tail -n 1
}

# Prints the kit's C++ library folder if this machine's library is older.
cxx_fallback() {
  local theirs ours
  theirs=$({ ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } |
    sed -nE 's/.*libstdc\+\+\.so\.6 .*x86-64.*=> (.*)/\1/p' | awk 'NR == 1')
  theirs=$(cxx_version "$theirs") ours=$(cxx_version "$work/lib_fallback/libstdc++.so.6")
  [[ $(printf '%s\n' "$theirs" "$ours" | sort -V | tail -n 1) == "$theirs" ]] ||
    echo "$work/lib_fallback"
}

# The kit's libraries, LibTorch's, NVIDIA's, then what the machine had set
# (where its driver is, perhaps).
library_path() {
  local dir folders=("$work/lib" "$torch/lib")
  for dir in "$torch"/../nvidia/*/lib; do
    [[ -d $dir ]] && folders+=("$(realpath "$dir")")
  done
  dir=$(cxx_fallback)
  [[ -z $dir ]] || folders+=("$dir")
  (IFS=:; echo "${folders[*]}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
}

find_torch
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d /tmp/gpu_kit.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for archive in programs sources sdk; do
  "$python" -W ignore -m tarfile -e "$here/$archive.tar.xz" "$work"
done
libraries=$(library_path)

programs=$work/bin built_here=()
kit_version=$(sed -n 's/^torch //p' "$here/VERSION")
if [[ $version != "$kit_version" ]]; then
  echo "PyTorch $version here, the kit's programs are for $kit_version: building what computes"
  programs=$work/sources/build/gpu/bin built_here=(--built-here)
  LD_LIBRARY_PATH=$libraries:$work/sdk/usr/lib/x86_64-linux-gnu \
    "$here/build_there.sh" "$work" "$torch" >"$out/build.log" 2>&1 ||
    { tail -n 20 "$out/build.log" >&2; die "the build failed: $out/build.log"; }
fi

status=0
"$python" -W ignore "$here/run.py" --device "$device" --work "$work" \
  --programs "$programs" --libraries "$libraries" --out "$out" \
  --started "$started" --budget "$budget" "${built_here[@]}" "${parts[@]}" || status=$?
exit "$status"
