#!/bin/bash
# yester, and restic where there is one, on an S3 server over a line of 20 ms in each direction and 100 Mbit/s.
#   tests/bench/distance.sh PROGRAM [SCRATCH] [MEGABYTES]      root: the kernel's caches are dropped before each step
# The server is that of the tests, in memory (tests/bench/store.rs); YESTER_TEST_S3=HOST:PORT names another one, with a
# bucket called `bucket` and AWS_ variables. DELAY (milliseconds) and RATE (Mbit/s) are others than 20 and 100.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
W=$(mktemp -d -p "${2:-/tmp}")
size=${3:-500}
pids=()
stop() {
  for m in "$W/mnt" "$W/rmnt"; do mountpoint -q "$m" && { umount "$m" || fusermount3 -uz "$m"; } 2>/dev/null; done
  for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
  rm -rf "$W"
}
trap stop EXIT

rustc --edition 2024 -O -o "$W/link" "$here/tests/bench/link.rs"
if [ -z "${YESTER_TEST_S3:-}" ]; then
  store=$(cd "$here" && cargo build -q --locked --bench store --message-format json | grep -o '"executable":"[^"]*store-[^"]*"' | cut -d'"' -f4)
  "$store" > "$W/store.port" & pids+=($!)
  until [ -s "$W/store.port" ]; do sleep 0.1; done
  YESTER_TEST_S3=127.0.0.1:$(cat "$W/store.port")
  export AWS_ACCESS_KEY_ID=AK AWS_SECRET_ACCESS_KEY=SK AWS_REGION=default
fi
"$W/link" "$YESTER_TEST_S3" "${DELAY:-20}" "${RATE:-100}" > "$W/link.port" & pids+=($!)
until [ -s "$W/link.port" ]; do sleep 0.1; done
far=http://127.0.0.1:$(cat "$W/link.port")/bucket
echo "load: $(cut -d' ' -f1-3 /proc/loadavg); line: ${DELAY:-20} ms in each direction, ${RATE:-100} Mbit/s; $size MB, incompressible"

# Half of it small files, half long ones.
mkdir -p "$W/src"
python3 - "$W/src" "$size" <<'PY'
import os, random, sys
at, left = sys.argv[1], int(sys.argv[2]) * 500_000
random.seed(1)
for n in range(10):
    with open(f"{at}/long{n}", "wb") as f: f.write(os.urandom(left // 10))
n = 0
while left > 0:
    os.makedirs(f"{at}/{n // 200}", exist_ok=True)
    size = min(left, int(random.expovariate(1 / 40_000)) + 1)
    with open(f"{at}/{n // 200}/{n}", "wb") as f: f.write(os.urandom(size))
    left, n = left - size, n + 1
PY
fresh() { sync; echo 3 > /proc/sys/vm/drop_caches; }
timed() { local name=$1 a b; shift; a=$(date +%s.%N); "$@"; b=$(date +%s.%N); printf '%-44s %7.2f s\n' "$name" "$(echo "$b - $a" | bc)"; }
export HOME=$W YESTER_REPO=s3:$far/yester YESTER_KEY_FILE=$W/key
mkdir "$W/mnt" "$W/rmnt"

"$program" -q init
fresh; timed "ingest" "$program" -q ingest "$W/src"
timed "ingest, nothing changed" "$program" -q ingest "$W/src"
fresh; timed "restore, cold" "$program" -q restore "latest:$W/src" --target "$W/out" --cache-dir "$W/none" --cache-size 0
diff -rq "$W/src" "$W/out"
away() { for _ in $(seq 100); do umount "$W/mnt" 2>/dev/null && return; sleep 0.1; done; "$program" umount "$W/mnt"; }
first() { "$program" -q mount "$W/mnt" "$@"; ls "$W/mnt/latest/" > /dev/null; }
copy() { rm -rf "$W/copy"; fresh; timed "$1" cp -a "$W/mnt/latest$W/src" "$W/copy"; diff -rq "$W/src" "$W/copy"; }
rm -rf "$W/.cache"
fresh; timed "mount and first ls, cold" first
copy "cp -a out of the mount, cold"
away
fresh; timed "mount and first ls, warm" first
copy "cp -a out of the mount, read before"
away
fresh; timed "restore, read before" "$program" -q restore "latest:$W/src" --target "$W/out2"

command -v restic >/dev/null || exit 0
export RESTIC_REPOSITORY=s3:$far/restic RESTIC_PASSWORD=x
restic version
restic -q init
fresh; timed "restic backup" restic -q backup "$W/src"
rm -rf "$W/.cache" "$W/out"
fresh; timed "restic restore" restic -q restore latest --target "$W/out"
rm -rf "$W/.cache"
fresh
began=$(date +%s.%N)
restic -q mount "$W/rmnt" > "$W/mount.log" 2>&1 & pids+=($!)
until ls "$W/rmnt/snapshots/latest/" > /dev/null 2>&1; do sleep 0.05; done
printf '%-44s %7.2f s\n' "restic mount and first ls, cold" "$(echo "$(date +%s.%N) - $began" | bc)"
rm -rf "$W/copy"
timed "restic: cp -a out of the mount, cold" cp -a "$W/rmnt/snapshots/latest$W/src" "$W/copy"
diff -rq "$W/src" "$W/copy"
echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
