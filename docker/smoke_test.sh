#!/usr/bin/env bash
# Proves the deployment on a Docker engine: builds, starts, uploads photos,
# trains, classifies, restarts and kills the server in the middle of a job, fills
# its disk, looks at the hardening from inside, scrapes the metrics, and takes
# everything down. Prints a line a check and measurements; ends with
# `N passed, N failed`. Uses a compose project of its own and a free port.
# Reads: FINETUNE_DATASET  folder with train/ and test/ or val/; default: drawn
#        FINETUNE_WEIGHTS  ImageNet weights; default: trains from scratch
#        FINETUNE_WHEELS, BASE_IMAGE and the others of docker-compose.yml
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
cd "$root"

docker info >/dev/null 2>&1 || die "no Docker engine can be reached"

work=$(mktemp -d)
chmod 755 "$work"
export COMPOSE_PROJECT_NAME=finetuned-smoke-$$
export FINETUNE_PORT=0
holder=$COMPOSE_PROJECT_NAME-holder
passed=0 failed=0

compose() {
  docker compose --progress quiet -f docker-compose.yml -f "$work/smoke.yml" "$@"
}
client() { compose run --rm -T client "$@" </dev/null; }
inside() { compose exec -T server bash -c "$1" </dev/null; }

down() {
  docker rm --force "$holder" >/dev/null 2>&1 || true
  compose --profile client --profile monitoring down --volumes --remove-orphans \
    --timeout 60 >/dev/null 2>&1 || true
}
trap 'down; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# check WHAT COMMAND...: counts whether the command succeeds.
check() {
  local what=$1 status=0
  shift
  "$@" >"$work/out" 2>&1 || status=$?
  if [[ $status -eq 0 ]]; then
    passed=$((passed + 1))
    echo "ok      $what"
  else
    failed=$((failed + 1))
    echo "FAILED  $what"
    tail -n 15 "$work/out" | sed 's/^/        /'
  fi
}
refuses() { ! "$@"; }
# says PATTERN COMMAND...: its output has the pattern, whatever it exits with.
says() {
  local pattern=$1 text
  shift
  text=$("$@" 2>&1) || true
  echo "$text"
  grep -qiE "$pattern" <<<"$text"
}
# fails_saying PATTERN COMMAND...
fails_saying() {
  local pattern=$1 text
  shift
  if text=$("$@" 2>&1); then
    echo "did not fail: $text"
    return 1
  fi
  echo "$text"
  grep -qiE "$pattern" <<<"$text"
}
# until_says PATTERN COMMAND...: within a minute.
until_says() {
  local end=$((SECONDS + 60))
  until says "$@"; do
    ((SECONDS < end)) || return 1
    sleep 1
  done
}
# seconds_of COMMAND...: sets `took`, e.g. 12.3.
seconds_of() {
  local begin=$EPOCHREALTIME
  "$@"
  took=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}
at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }
field() { sed -n "s/.*\"$1\": *\"\?\([^\",}]*\).*/\1/p" | head -n 1; }

# What the jobs train on, and how. The state is a volume of limited size, so
# that it can be filled; it lasts for as long as a container uses it.
prepare() {
  cat >"$work/smoke.yml" <<'YAML'
volumes:
  state:
    driver_opts:
      type: tmpfs
      device: tmpfs
      o: size=2g,uid=10001,gid=10001,mode=700
YAML
  dataset=$work/data/pictures epochs=1 long_epochs=25
  if [[ -n ${FINETUNE_DATASET:-} ]]; then
    dataset=$(realpath "$FINETUNE_DATASET") epochs=2 long_epochs=5
  else
    mkdir "$work/data"
    python3 scripts/draw_pictures.py "$dataset" --train 12 --test 4
    chmod -R a+rX "$work/data"
  fi
  FINETUNE_PHOTOS=$(dirname "$dataset")
  export FINETUNE_PHOTOS
  name=$(basename "$dataset")
  test_photos=/data/$name/$(basename "$(test_folder "$dataset")")
  settings=(--batch-size 8 --lr 0.001 --seed 1)
  [[ -n ${FINETUNE_WEIGHTS:-} ]] || settings+=(--from-scratch)
}

# Where a network reaches a package index only, pip on this host may know a
# LibTorch that the build cannot find.
find_wheel() {
  [[ -z ${FINETUNE_WHEELS:-}${LIBTORCH_URL:-} ]] || return 0
  compgen -G 'docker/wheels/torch-*.whl' >/dev/null && return
  curl --silent --head --max-time 10 --output /dev/null \
    https://download.pytorch.org/whl/cpu/torch/ && return
  echo "LibTorch's site cannot be reached: asking pip on this machine"
  python3 -m pip --quiet download --no-deps --only-binary=:all: \
    --dest docker/wheels torch==2.13.0 || true
}

build_and_start() {
  compose --profile client build && compose up --build --detach --wait
}

check_start() {
  seconds_of check "images are built, and the server gets healthy" build_and_start
  echo "        up --build --wait: $took s"
  [[ $failed -eq 0 ]] || die "nothing to test: the server did not start"
  local image=${FINETUNE_SERVER_IMAGE:-finetuned}
  docker run --detach --name "$holder" --entrypoint sleep --network none \
    --volume "${COMPOSE_PROJECT_NAME}_state:/state" "$image" infinity >/dev/null
  local bytes
  for limit in "$image 1000" "${FINETUNE_CLIENT_IMAGE:-finetune} 120"; do
    bytes=$(docker image inspect --format '{{.Size}}' "${limit% *}")
    check "image ${limit% *} has at most ${limit#* } MB: $((bytes / 1000000))" \
      test "$bytes" -le "${limit#* }000000"
  done
}

check_hardening() {
  local status="grep -l '^finetuned\$' /proc/[0-9]*/comm | head -n 1 | sed s/comm/status/"
  check "runs as user 10001" says '^10001$' inside 'id -u'
  check "root file system is read-only" fails_saying 'read-only' inside 'touch /usr/x'
  check "photos are read-only" fails_saying 'read-only' inside 'touch /data/x'
  check "has no capabilities, nor can get any" inside \
    "test \$(grep -cE '^Cap(Inh|Prm|Eff|Bnd|Amb):.0+\$' \$($status)) = 5"
  check "no new privileges" inside "grep -qE '^NoNewPrivs:.1\$' \$($status)"
  check "/tmp can be written, and nothing runs there" inside \
    'cp /bin/true /tmp/t && ! /tmp/t; r=$?; rm -f /tmp/t; exit $r'
  check "state belongs to its user alone" says '^10001 700$' \
    inside 'stat -c "%u %a" /var/lib/finetuned'
  check "token file belongs to its user alone" says '^10001 600$' \
    inside 'stat -c "%u %a" /var/lib/finetuned-token/tokens'
  check "processes are limited" inside \
    'cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null | grep -qE "^[0-9]+$"'
  check "memory is limited" inside \
    'm=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null); [[ $m != max && $m -le 1000000000000 ]]'
  check "an init reaps" inside '! grep -q finetuned /proc/1/comm'
  check "the port is open on loopback only" says '^127\.0\.0\.1:' compose port server 50051
  check "the token was printed" says 'generated admin token' compose logs server
  check "a call without a token is refused" fails_saying 'token' \
    compose run --rm -T -e FINETUNE_TOKEN_FILE= client list
}

check_training() {
  check "photos are uploaded" client upload "/data/$name"
  check "a job on the mounted folder is watched to its end" \
    client start "$name" --name smoke --epochs "$epochs" "${settings[@]}" --watch
  check "photos are classified" client classify "$test_photos" --model smoke
  check "the model is served by default" client health --service finetune.v1.InferenceService
}

has_steps() { until_says '"step":' client progress "$1" --json; }

check_interruptions() {
  job=$(client start "$name" --name long --hold-promotion --epochs "$long_epochs" \
    "${settings[@]}" --json 2>/dev/null | field job_id) || true
  check "a long job runs" has_steps "$job"
  check "the server restarts in its middle" compose restart server
  check "and gets healthy" compose up --detach --wait
  check "the model is still served" client classify "$test_photos" --model smoke
  check "the job goes on from its checkpoint" \
    until_says 'goes on from' client progress "$job"
  check "the server is killed in its middle" \
    docker kill --signal KILL "$(compose ps --quiet server)"
  check "and comes up again" compose up --detach --wait
  check "the model is still served" client classify "$test_photos" --model smoke
  check "the job ends well" client watch "$job"
  check "its model classifies" client classify "$test_photos" --model long@1
}

backup() {
  COMPOSE_FILE=docker-compose.yml:$work/smoke.yml docker/backup.sh "$1" "$work/state.tar.gz"
}
wipe() {
  compose stop server && docker exec --user 10001 "$holder" \
    find /state -mindepth 1 -delete
}
# One by one: in batches of other sizes the last bits differ.
answers() { client classify "$test_photos" --model smoke --window 1 --json; }

check_backup() {
  answers >"$work/before" 2>/dev/null || true
  check "the state is saved" backup save
  check "and lost" wipe
  check "and restored" backup restore
  check "the server is healthy with it" compose up --detach --wait
  answers >"$work/after" 2>/dev/null || true
  check "its model gives the same answers" \
    bash -c 'test -s "$0" && cmp "$0" "$1"' "$work/before" "$work/after"
}

fill() { ! docker exec --user 10001 "$holder" dd if=/dev/zero of=/state/fill bs=1M 2>&1; }

check_full_disk() {
  check "the state volume is filled" fill
  check "a job is refused with a clear error" \
    fails_saying 'no space|disk|full|RESOURCE_EXHAUSTED' \
    client start "$name" --name full --epochs 1 "${settings[@]}" --watch
  check "the model is still served" client classify "$test_photos" --model smoke
  check "the server is still healthy" client health
  check "room is made" docker exec --user 10001 "$holder" rm /state/fill
  check "a job succeeds again" \
    client start "$name" --name after --epochs 1 "${settings[@]}" --watch
}

scrape() {
  inside 'exec 3<>/dev/tcp/127.0.0.1/9090
    printf "GET /metrics HTTP/1.0\r\nHost: server\r\n\r\n" >&3; timeout 5 cat <&3'
}

# Names that the dashboard and the alerts ask for and a scrape lacks; those of
# running jobs and of GPUs are not always there.
unknown_metrics() {
  scrape >"$work/scrape"
  grep -ohE '\b(finetune|process)_[a-z_]+' docker/monitoring/alerts.yml \
    docker/monitoring/grafana/dashboards/finetuned.json | sort -u |
    grep -vE '^finetune_(training|gpu)_' |
    while read -r metric; do grep -q "^$metric" "$work/scrape" || echo "$metric"; done
}

check_metrics() {
  check "dashboard and alerts ask for metrics that there are" \
    says '^$' unknown_metrics
  check "metrics count the calls" says 'finetune_requests_total\{.*Classify' scrape
  check "metrics know the jobs" says 'finetune_jobs\{' scrape
  if ! timeout 120 docker compose --profile monitoring pull --quiet \
      prometheus grafana >/dev/null 2>&1; then
    echo "SKIPPED Prometheus and Grafana: their images cannot be pulled here"
    return
  fi
  export PROMETHEUS_PORT=0 GRAFANA_PORT=0
  check "Prometheus and Grafana start" compose --profile monitoring up --detach --wait
  check "Prometheus reaches the server" until_says '"health":"up"' \
    compose exec -T prometheus wget -qO- http://127.0.0.1:9090/api/v1/targets
}

# since_start TIME: seconds from the container's start to then.
since_start() {
  local start
  start=$(date --date "$(docker inspect --format '{{.State.StartedAt}}' \
    "$(compose ps --quiet server)")" +%s.%N)
  awk -v a="$start" -v b="$1" 'BEGIN { printf "%.1f", b - a }'
}
# When the first probe succeeded.
healthy_at() {
  date +%s.%N --date "$(docker inspect --format '{{range .State.Health.Log}}{{if
    eq .ExitCode 0}}{{.End.Format "2006-01-02T15:04:05.000000000Z07:00"}}
{{end}}{{end}}' "$(compose ps --quiet server)" | head -n 1)"
}

check_speed() {
  local served
  compose down --timeout 60 >/dev/null 2>&1
  seconds_of check "the server starts with warm caches" compose up --build --detach --wait
  check "up --build --wait with warm caches takes at most 10 s: $took" at_most "$took" 10
  check "the model is served again" inside 'for ((i = 0; i < 300; i++)); do
    finetune health --service finetune.v1.InferenceService && exit; sleep 0.1; done; exit 1'
  served=$(since_start "$EPOCHREALTIME")
  took=$(since_start "$(healthy_at)")
  check "container to healthy takes at most 5 s: $took" at_most "$took" 5
  check "container to a served model takes at most 5 s: $served" at_most "$served" 5
}

left() {
  local label=label=com.docker.compose.project=$COMPOSE_PROJECT_NAME
  docker ps --all --quiet --filter "$label"
  docker ps --all --quiet --filter "name=$holder"
  docker volume ls --quiet --filter "$label"
  docker network ls --quiet --filter "$label"
}
check_down() {
  down
  check "nothing is left behind" test -z "$(left)"
}

prepare
find_wheel
check_start
check_hardening
check_training
check_interruptions
check_backup
check_full_disk
check_metrics
check_speed
check_down
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
