# shellcheck shell=bash
# What the scripts share; sourced, not run. Sets `root` (the repository) and
# `bin` (the built programs).
# choose_weights reads FINETUNE_WEIGHTS, choose_dataset FINETUNE_DATASET.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
bin=$root/build/release/bin

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# download URL FILE: whole or not at all; goes on with what an interrupted run
# left in FILE.part. Gives up soon where there is no network, and sets
# `download_error`.
download() {
  mkdir -p "$(dirname "$2")"
  local status=0
  download_error=$(curl --fail --location --silent --show-error \
    --connect-timeout 10 --speed-limit 1000 --speed-time 30 --continue-at - \
    --output "$2.part" "$1" 2>&1) || status=$?
  if [[ $status -ne 0 ]]; then
    # 22, 33, 36: the server will not go on from there; the next run starts anew.
    [[ $status =~ ^(22|33|36)$ ]] && rm -f "$2.part"
    return 1
  fi
  mv "$2.part" "$2"
}

# Sets `weights` to the ImageNet weights, or to nothing where there are none.
choose_weights() {
  if [[ -n ${FINETUNE_WEIGHTS:-} ]]; then
    [[ -f $FINETUNE_WEIGHTS ]] || die "no such file: FINETUNE_WEIGHTS=$FINETUNE_WEIGHTS"
    weights=$(realpath "$FINETUNE_WEIGHTS")
  else
    # shellcheck disable=SC2034
    weights=$("$root/scripts/fetch_weights.sh") || weights=
  fi
}

# Sets `dataset` to a folder with train/ and test/ or val/, or to nothing.
choose_dataset() {
  dataset=$root/.deps/data/hotdog
  if [[ -n ${FINETUNE_DATASET:-} ]]; then
    [[ -d $FINETUNE_DATASET/train ]] ||
      die "no folder train/ in FINETUNE_DATASET=$FINETUNE_DATASET"
    dataset=$(realpath "$FINETUNE_DATASET")
  elif [[ ! -d $dataset ]]; then
    fetch_hotdog "$dataset" || dataset=
  fi
}

fetch_hotdog() {
  local zip=$1.zip aside
  local url=https://apache-mxnet.s3-accelerate.amazonaws.com/gluon/dataset/hotdog.zip
  if [[ ! -f $zip ]]; then
    echo "downloading photos: $url" >&2
    download "$url" "$zip" || { echo "  $download_error" >&2; return 1; }
  fi
  if ! sha1sum --check --status <<<"fba480ffa8aa7e0febbb511d181409f899b9baa5  $zip"; then
    echo "  $zip is not the file that was expected; deleted" >&2
    rm -f "$zip"
    return 1
  fi
  aside=$(mktemp -d "$1.XXXXXX")
  unzip -q "$zip" -d "$aside" && mv "$aside/hotdog" "$1" && rm -rf "$aside" "$zip"
}

# test_folder DATASET: prints its test/ or val/.
test_folder() {
  local split
  for split in test val; do
    [[ -d $1/$split ]] && { echo "$1/$split"; return; }
  done
  die "no folder test/ or val/ in $1"
}

# photos_of FOLDER COUNT: prints COUNT of the pictures in it, one a line.
photos_of() {
  find -L "$1" -type f \
    \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' \) |
    sort | awk -v n="$2" 'NR <= n'
}

# make_python_env DIR PACKAGE...: a Python environment with these packages, made
# anew where they have changed; sets `python` to its Python.
make_python_env() {
  local env=$1
  shift
  if [[ $(cat "$env/complete" 2>/dev/null) != "$*" ]]; then
    python3 -m venv --clear "$env"
    "$env/bin/pip" install --quiet "$@"
    echo "$*" >"$env/complete"
  fi
  # shellcheck disable=SC2034
  python=$env/bin/python
}

# await_address PID OUT: waits until process PID has written to OUT where it
# listens, and sets `address`. Fails if it ends, or takes a minute.
await_address() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    address=$(sed -n 's/^listening on //p' "$2")
    [[ -n $address ]] && return
    kill -0 "$1" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# start_server STATE_DIR DATA_ROOT [FLAG...]: runs finetuned on a free port and
# sets `server_pid` and FINETUNE_SERVER, which the client reads.
start_server() {
  local state_dir=$1 data_root=$2 out=$1/server.out log=$1/server.log address
  shift 2
  : >"$out"
  "$bin/finetuned" --address 127.0.0.1:0 --state_dir "$state_dir" \
    --data_root "$data_root" "$@" >"$out" 2>"$log" &
  server_pid=$!
  await_address "$server_pid" "$out" || { cat "$log" >&2; die "the server did not start"; }
  export FINETUNE_SERVER=$address
}

# stop_server: asks it to end, and insists after 15 s.
stop_server() {
  [[ -n ${server_pid:-} ]] || return 0
  kill "$server_pid" 2>/dev/null || true
  local tries
  for ((tries = 0; tries < 150; tries++)); do
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
