#!/bin/bash
# Ingests of what is not like other data: time, peak memory, bytes stored.
#   extremes.sh TREE SCRATCH     TREE: an ordinary tree, for an ingest at each compression level
# YESTER_BIN names another yester binary.
set -euo pipefail
tree=$(cd "$1" && pwd); scratch=$(mktemp -d -p "$2"); trap 'rm -rf "$scratch"' EXIT
yester=${YESTER_BIN:-yester}
export YESTER_KEY_FILE=$scratch/key

# What is asked for, with the repository at $1, in one line.
measure() {
    local name=$1 repo=$scratch/repository; shift
    export YESTER_REPO=$repo
    local before=0
    [ -e "$repo" ] && before=$(du -sb "$repo" | cut -f1) || "$yester" init -q
    sync
    /usr/bin/time -o "$scratch/time" -f "%e s wall, %U s user, %S s system, %M KiB at the peak" "$yester" "$@" >"$scratch/out" 2>&1 ||
        { cat "$scratch/out"; exit 1; }
    echo "$name: $(cat "$scratch/time"), $((($(du -sb "$repo" | cut -f1) - before) / 1000)) kB stored"
}
fresh() { rm -rf "$scratch/repository" "$scratch/key"; }

mkdir "$scratch/sparse"; truncate -s 20G "$scratch/sparse/file"
for at in 0 5 10 15; do head -c 1M /dev/urandom | dd of="$scratch/sparse/file" bs=1M seek=$((at * 1024 + 7)) conv=notrunc status=none; done
measure "a sparse file of 20 GB, 4 MB of it data" ingest -q "$scratch/sparse"
measure "the same, unchanged" ingest -q "$scratch/sparse"
measure "the same, restored" restore -q latest --target "$scratch/restored"
echo "    the restored file takes $(du -s --block-size=1K "$scratch/restored" | cut -f1) KiB"
rm -rf "$scratch/restored" "$scratch/sparse"; fresh

mkdir "$scratch/million"
python3 - "$scratch/million" <<'EOF'
import os, sys
for n in range(1_000_000):
    os.close(os.open(f"{sys.argv[1]}/entry-{n:07}", os.O_CREAT | os.O_WRONLY))
EOF
measure "a directory of a million entries" ingest -q "$scratch/million"
measure "the same, unchanged" ingest -q "$scratch/million"
rm -rf "$scratch/million"; fresh

mkdir "$scratch/random"; head -c 100M /dev/urandom >"$scratch/random/file"
measure "100 MiB that cannot be compressed, in one file" ingest -q "$scratch/random"
rm -rf "$scratch/random"; fresh

for level in off 1 auto 5 9 12 15 19; do
    measure "$(basename "$tree") at compression $level" ingest -q --compression "$level" "$tree"
    fresh
done
