#!/usr/bin/env bash
# Saves the state of the compose project (jobs, models, uploads and tokens) to a
# file, or puts it back. The server stops for it, so that database and files are
# of one moment, and is started again; a running job goes on from its checkpoint.
#   docker/backup.sh save FILE.tar.gz
#   docker/backup.sh restore FILE.tar.gz    # in place of what is there
# Reads docker compose's variables, e.g. COMPOSE_FILE and COMPOSE_PROJECT_NAME.
set -euo pipefail

die() {
  echo "backup.sh: $*" >&2
  exit 1
}

# tool COMMAND...: in a container of its own, on the server's volumes.
tool() { docker compose run --rm -T --no-deps --entrypoint "$1" server "${@:2}"; }

save() {
  tool tar -C /var/lib -czf - finetuned finetuned-token </dev/null >"$1.part" &&
    tar -tzf "$1.part" finetuned/finetuned.db >/dev/null && mv "$1.part" "$1"
}

# Unpacks beside what is there before it takes its place: a file that is cut off
# changes nothing.
restore() {
  tool bash -euc '
    cd /var/lib
    rm -rf finetuned/.restore && mkdir finetuned/.restore
    tar -C finetuned/.restore -xzf -
    for folder in finetuned finetuned-token; do
      find $folder -mindepth 1 -maxdepth 1 ! -name .restore -exec rm -rf {} +
      cp -a finetuned/.restore/$folder/. $folder/
    done
    rm -rf finetuned/.restore' <"$1"
}

[[ $# -eq 2 && $1 =~ ^(save|restore)$ ]] || {
  echo "usage: backup.sh save|restore FILE.tar.gz" >&2
  exit 2
}
file=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $1 == restore ]]; then
  tar -tzf "$file" finetuned/finetuned.db >/dev/null || die "$file is no whole backup"
fi
umask 077  # It holds tokens.
docker compose stop server
trap 'docker compose start server' EXIT
"$1" "$file" || die "$1 failed"
