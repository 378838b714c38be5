#!/bin/bash
# links.sh YESTER DIR [COUNT]: the most anonymous memory of an ingest and of a restore of COUNT (a million) files with two
# names each, all first names before all second ones. DIR is made if missing and gets all of it; needs python3.
set -euo pipefail
yester=$(realpath "$1") work=$(realpath -m "$2") count=${3:-1000000}
mkdir -p "$work"
cd "$work"
[ -e "tree-$count" ] || python3 - "tree-$count" "$count" <<'MAKE'
import os, sys
root, count = sys.argv[1], int(sys.argv[2])
for half in "ab":
    for number in range(1000):
        os.makedirs(f"{root}/{half}/{number:03}")
for number in range(count):
    name = f"{number % 1000:03}/{number // 1000:04}"
    with open(f"{root}/a/{name}", "w") as file:
        file.write(f"{number}\n")
    os.link(f"{root}/a/{name}", f"{root}/b/{name}")
MAKE
export YESTER_REPO=$work/repository YESTER_KEY_FILE=$work/key
rm -rf repository key restored
"$yester" init >/dev/null
peak() {
    "$@" >/dev/null &
    local child=$! most=0 now start=$SECONDS
    while kill -0 $child 2>/dev/null; do
        now=$(awk '/^RssAnon/ { print $2 }' "/proc/$child/status" 2>/dev/null || true)
        [ "${now:-0}" -le $most ] || most=$now
        sleep 0.05
    done
    wait $child
    echo "$2: $((most / 1024)) MiB, $((SECONDS - start)) s"
}
peak "$yester" ingest "tree-$count"
peak "$yester" restore "latest:$work/tree-$count" --target restored
[ "$(find restored/b -type f -links 2 | wc -l)" = "$count" ]
