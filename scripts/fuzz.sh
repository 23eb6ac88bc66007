#!/usr/bin/env bash
# Builds the fuzzers and runs each for a while on seeds made from the tests'
# files and on what earlier runs found. Prints one line a fuzzer; fails on a
# crash, a leak, undefined behaviour, a hang or too much memory, and says where
# the input is. The corpus grows in build/fuzz/corpus.
#   fuzz.sh [SECONDS]    for each fuzzer (default 60); one a core at a time
# Reads: TMPDIR  where archives are unpacked (default /dev/shm, which is quick)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || {
  echo "usage: fuzz.sh [SECONDS]" >&2
  exit 2
}
fuzz=$root/build/fuzz
[[ -w /dev/shm ]] && export TMPDIR=${TMPDIR:-/dev/shm}

# The largest input, the largest single allocation and all memory in MB. Those
# are what the limits in each fuzzer promise, and AddressSanitizer's and
# LibTorch's own needs.
#       fuzzer                   bytes  malloc   rss  seeds
fuzzers=(
  "archive_unpacker_fuzzer  32768       8  1024  $fuzz/seeds/archives"
  "decode_fuzzer            35000      32  1024  server/testdata/images server/testdata/bad"
  "safetensors_fuzzer       16384      32  2048  $fuzz/seeds/safetensors"
  "torch_file_fuzzer        16384      32  2048  $fuzz/seeds/pth"
)

make_seeds() {
  mkdir -p "$fuzz"/seeds/{archives,safetensors,pth}
  python3 scripts/make_archives.py "$fuzz/seeds/archives"
  cp server/testdata/state_dict/*.safetensors "$fuzz/seeds/safetensors"
  cp server/testdata/state_dict/*.pth "$fuzz/seeds/pth"
}

# run NAME MAX_LEN MALLOC_MB RSS_MB SEEDS...
run() {
  local name=$1 max_len=$2 malloc_mb=$3 rss_mb=$4
  shift 4
  local corpus=$fuzz/corpus/$name found=$fuzz/found/ log=$fuzz/$name.log
  local status=0 runs peak
  mkdir -p "$corpus" "$found"
  ASAN_OPTIONS=quarantine_size_mb=16 "$fuzz/bin/$name" \
    -max_total_time="$seconds" -max_len="$max_len" \
    -malloc_limit_mb="$malloc_mb" -rss_limit_mb="$rss_mb" -timeout=10 \
    -print_final_stats=1 -artifact_prefix="$found$name-" \
    "$corpus" "$@" >"$log" 2>&1 || status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  if [[ $status -eq 0 ]]; then
    echo "$name: ${runs:-0} inputs, ${peak:-?} MB at most, nothing found"
    return
  fi
  echo "$name: FAILED after ${runs:-0} inputs: $(reason "$log")"
  return 1
}

# reason LOG: what was found, and the file that shows it.
reason() {
  grep -m1 -aoE 'ERROR: .*|runtime error: .*' "$1" || echo "see $1"
  grep -m1 -aoE "Test unit written to .*" "$1" || true
}

if [[ ! -f $fuzz/build.ninja ]]; then
  cmake --preset fuzz --fresh >"$root/build/fuzz-configure.log" 2>&1 || {
    cat "$root/build/fuzz-configure.log" >&2
    die "cannot configure"
  }
fi
cmake --build --preset fuzz
make_seeds
failed=0 running=0
for fuzzer in "${fuzzers[@]}"; do
  if ((running == $(nproc))); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  # shellcheck disable=SC2086
  run $fuzzer &
  running=$((running + 1))
done
while ((running-- > 0)); do wait -n || failed=1; done
exit $failed
