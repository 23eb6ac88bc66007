#!/usr/bin/env bash
# Builds and runs all tests: the release build's, then, with sanitizers, those
# that need no LibTorch, then each fuzzer for a minute, then checks the compose
# files where docker compose is. Ends with one line, `N passed, N failed`, and
# fails if a test or fuzzer failed, a build failed (counted as one) or nothing ran.
# Reads: FINETUNE_WEIGHTS, FINETUNE_DATASET  real weights and photos; tests that
#        need them are skipped without; and setup.sh's
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

passed=0 failed=0 skipped=0

# count FILE: adds up what ctest wrote. A test that could not be run failed.
count() {
  local numbers
  numbers=$(python3 - "$1" <<'PYTHON'
import sys
import xml.etree.ElementTree as ET

counts = dict(passed=0, failed=0, skipped=0)
for case in ET.parse(sys.argv[1]).getroot().iter("testcase"):
    note = case.find("skipped")
    if case.get("status") == "run":
        counts["passed"] += 1
    elif case.get("status") == "disabled" or (
            note is not None and note.get("message", "").startswith("SKIP_")):
        counts["skipped"] += 1
    else:
        counts["failed"] += 1
if not any(counts.values()):
    counts["failed"] = 1  # A suite without tests is a fault.
print(*counts.values())
PYTHON
  ) || numbers="0 1 0"
  local p f s
  read -r p f s <<<"$numbers"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

stage() { echo "== $1, after $SECONDS s"; }

# suite PRESET BUILD_COMMAND...
suite() {
  local preset=$1 report=build/$1/tests.xml
  shift
  stage "$preset"
  if ! "$@"; then
    echo "$preset: the build failed"
    failed=$((failed + 1))
    return
  fi
  stage "$preset is built"
  rm -f "$report"
  ctest --test-dir "build/$preset" -j2 --timeout 600 --output-on-failure \
    --no-tests=error --output-junit "$root/$report" || true  # Counted below.
  count "$report"
}

configure_and_build() {
  [[ -f build/$1/build.ninja ]] || cmake --preset "$1" --fresh || return 1
  cmake --build --preset "$1"
}

# fuzz SECONDS: counts each fuzzer as a test.
fuzz() {
  stage fuzz
  local report=build/fuzz.txt found=0 clean
  scripts/fuzz.sh "$1" | tee "$report" || found=1
  clean=$(grep -c ': .* nothing found$' "$report") || true
  passed=$((passed + clean))
  [[ $found -eq 0 ]] || failed=$((failed + 1))
}

suite release "$root/scripts/setup.sh"
suite asan configure_and_build asan
suite tsan configure_and_build tsan
fuzz 60
stage compose
checked=0
scripts/compose_check.sh || checked=$?
case $checked in
  0) passed=$((passed + 1)) ;;
  77) skipped=$((skipped + 1)) ;;
  *) failed=$((failed + 1)) ;;
esac

line="$passed passed, $failed failed"
[[ $skipped -gt 0 ]] && line+=", $skipped skipped"
echo "$line"
[[ $failed -eq 0 && $passed -gt 0 ]]
