#!/bin/bash
# A stream against a file of the same bytes: speed and memory.
#   tests/bench/stream.sh PROGRAM DIR [MEBIBYTES]    10,240 unless told; DIR needs room for twice as much and some more
# A release build, and a quiet machine. The stream comes from `cat` of the same file, so both read it from where it is. Of each,
# the better of two runs counts. Ends with 1 if the stream has less than 80 % of the file's speed, or takes 32 MiB more memory
# than it takes for half of it: by then caches, which have bounds, are full.
set -euo pipefail
program=$(realpath "$1"); mkdir -p "$2"; D=$(cd "$2" && pwd); size=${3:-10240}
export HOME=$D YESTER_KEY_FILE=$D/key
data=$D/data
# What deduplicates and compresses nothing, and what does: half of each.
python3 - "$data" "$size" <<'PY'
import os, sys
with open(sys.argv[1], "wb") as f:
    for n in range(int(sys.argv[2])):
        f.write(os.urandom(512 << 10) + (b"%016d a line of a dump that compresses\n" % n) * 9709)
PY
run() { # NAME ARGS...: seconds and KiB of the better run, in a fresh repository each time
  local name=$1 best=; shift
  for _ in 1 2; do
    rm -rf "$D/repo"; YESTER_REPO=$D/repo "$program" -q init
    sync; cat "$data" > /dev/null
    python3 - "$D/told" "$program" --repo "$D/repo" -q ingest "$@" <<'PY'
import os, resource, subprocess, sys, time
began = time.time()
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
assert status == 0, status
open(sys.argv[1], "w").write(f"{time.time() - began:.2f} {usage.ru_maxrss}\n")
PY
    read -r seconds memory < "$D/told"
    best=$(python3 -c "print(min(float('${best:-1e9}'), $seconds))")
  done
  echo "$name: $best s, $memory KiB"
  eval "${name}_seconds=$best ${name}_memory=$memory"
}
run file "$data"
run stream --stream data.bin -- cat "$data"
run half --stream data.bin -- head -c $((size * 524288)) "$data"
rm -rf "$D/repo" "$data" "$D/told" "$D/key"
python3 - <<PY
share = $file_seconds / $stream_seconds
print(f"the stream has {share:.0%} of the file's speed, and {($stream_memory - $half_memory) / 1024:.0f} MiB more memory than half of it")
raise SystemExit(share < 0.8 or $stream_memory - $half_memory > 32 << 10)
PY
