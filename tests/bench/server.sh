#!/bin/bash
# Pairs of runs: the same ingest, restore and mount on a local directory and through `yester serve` on loopback.
# Usage: tests/bench/server.sh PROGRAM SOURCE SCRATCH [PAIRS]
set -euo pipefail
yester=$(realpath "$1") source=$(realpath "$2") scratch=$(realpath "$3") pairs=${4:-3}
work=$(mktemp -d "$scratch/server.XXXX")
cd "$work"
mkdir root local-mount server-mount
export HOME=$work YESTER_KEY_FILE=$work/key YESTER_TOKEN_FILE=$work/token
"$yester" serve token create web --full --root root -q > token
timed() { local what=$1; shift; /usr/bin/time -f "$what: %e s, %U + %S s of processor, %M KiB" "$@"; }
# Restored to a new place each time: files made right after others were deleted are slow on ext4.
for pair in $(seq "$pairs"); do
    rm -rf root/web .cache local
    "$yester" serve --root root --listen 127.0.0.1:0 > out 2> log &
    server=$!
    while ! grep -qs fingerprint out; do sleep 0.1; done
    YESTER_TLS_FINGERPRINT=$(sed -n 's/.*--tls-fingerprint //p' out)
    export YESTER_TLS_FINGERPRINT
    remote=https://$(sed -n 's/listening on //p' out)/web
    "$yester" -q --repo local init && "$yester" -q --repo "$remote" init
    tar cf - -C "$source" . | cat > /dev/null
    timed "ingest, local" "$yester" -q --repo local ingest "$source"
    timed "ingest, server" "$yester" -q --repo "$remote" ingest "$source"
    timed "restore, local" "$yester" -q --repo local restore "latest:$source" --target "back-local-$pair"
    timed "restore, server" "$yester" -q --repo "$remote" restore "latest:$source" --target "back-server-$pair"
    for kind in local server; do
        repo=local
        [ $kind = local ] || repo=$remote
        "$yester" -q --repo "$repo" mount $kind-mount
        timed "tar of the mount, $kind" tar cf - -C "$kind-mount/latest$source" . | cat > /dev/null
        "$yester" -q umount $kind-mount
    done
    echo "server: $(grep VmHWM /proc/$server/status)"
    kill $server && wait $server
    rm out
done
cd / && rm -rf "$work"
