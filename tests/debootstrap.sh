#!/bin/bash
# debootstrap.sh YESTER [DIR]: ingests a whole Debian system, restores it and copies it out of the mount, and shows that both
# are the same to the last attribute and that dpkg finds every file as it was installed. Needs root, debootstrap, rsync
# and a network; no part of `cargo test`. DIR (made if missing; a system that is there already is used) gets all of it.
set -euo pipefail
yester=$(realpath "$1") here=$(dirname "$(realpath "$0")")
work=$(realpath -m "${2:-$(mktemp -d)}")
mkdir -p "$work/point"
cd "$work"
[ -e system/etc/debian_version ] || debootstrap --variant=minbase bookworm system >debootstrap.log
# What a minimal system has little of.
touch -d '1955-11-05 06:15:00.000000001 UTC' system/srv
chroot system setpriv --version >/dev/null
export YESTER_REPO=$work/repository YESTER_KEY_FILE=$work/key
[ -e key ] || "$yester" init
timed() { echo "== $*" | cut -c1-100; /usr/bin/env time -f '%e s, %M KiB' "$@" 2>&1 || { echo "failed: $*"; exit 1; }; }
verify() {
    chroot "$1" dpkg --verify >"$1.verify" 2>&1 || true
    [ ! -s "$1.verify" ] || { echo "dpkg --verify in $1:"; cat "$1.verify"; exit 1; }
    echo "dpkg --verify in $1: nothing"
}
verify system
timed "$yester" ingest system
"$yester" mount "latest:$work/system" point
trap '"$yester" umount "$work/point"' EXIT
timed "$yester" restore "latest:$work/system" --target restored
timed python3 "$here/same_tree.py" system point
timed python3 "$here/same_tree.py" system restored
timed cp -a point copied
timed python3 "$here/same_tree.py" system copied
for copy in point restored copied; do
    [ -z "$(rsync -aHAXSn --numeric-ids --checksum --delete -i system/ $copy/)" ] || { echo "rsync finds differences in $copy"; exit 1; }
done
verify restored
verify copied
echo "all of it is the same: $(find system | wc -l) entries, $(du -sm system | cut -f1) MiB; repository $(du -sm repository | cut -f1) MiB"
