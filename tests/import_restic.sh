#!/bin/bash
# A restic repository of many snapshots, imported, and every snapshot of both compared: all that lstat, attributes and
# contents tell. Needs restic, python3, and a built yester.
#   tests/import_restic.sh [YESTER] [SNAPSHOTS] [SOURCE]     default: target/release/yester 50 /usr/share/doc
# Each snapshot is of a real tree with successive edits: files appended to, replaced, removed, added, linked, renamed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
yester=$(realpath "${1:-target/release/yester}") count=${2:-50} source=${3:-/usr/share/doc}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/import.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
export RESTIC_PASSWORD=secret YESTER_FROM_PASSWORD=secret YESTER_REPO=$work/yester YESTER_KEY_FILE=$work/key
head -c 32 /dev/urandom > key
cp -a "$source" tree
head -c 3000000 /dev/urandom > tree/database
restic -q init -r restic
"$yester" -q init

edit() { # NUMBER
    python3 - "$1" <<'PYTHON'
import os, random, sys
number = int(sys.argv[1])
random.seed(number)
files = sorted(os.path.join(d, f) for d, _, names in os.walk("tree") for f in names if not os.path.islink(os.path.join(d, f)))
files.remove("tree/database")
for path in random.sample(files, len(files) // 100):
    match random.randrange(6):
        case 0: os.remove(path)
        case 1: os.rename(path, path + f".{number}")
        case 2: os.link(path, path + f".link{number}")
        case 3: open(path + f".new{number}", "wb").write(random.randbytes(random.randrange(20000)))
        case 4: os.chmod(path, random.choice([0o600, 0o640, 0o4755]))
        case _: open(path, "ab").write(f"edit {number}\n".encode() * random.randrange(1, 200))
with open("tree/database", "r+b") as file:
    for _ in range(20):
        file.seek(random.randrange(3000000 - 100))
        file.write(random.randbytes(100))
PYTHON
}

echo "making $count snapshots of $(find tree | wc -l) entries, $(du -sh --apparent-size tree | cut -f1)"
began=$SECONDS
for number in $(seq "$count"); do
    edit "$number"
    restic -q -r restic backup --host "h$((number % 2))" --tag "n$number" "$work/tree"
done
echo "restic took $((SECONDS - began)) s"
began=$(date +%s.%N)
"$yester" import restic:restic | tail -n 1
echo "the import took $(python3 -c "import time; print(f'{time.time() - $began:.1f}')") s"
"$yester" import restic:restic | tail -n 1
"$yester" -q check --read-data
echo "restic: $(du -sb restic | cut -f1) bytes; yester: $(du -sb yester | cut -f1) bytes"

# Everything, through restores: a mount of restic shows no hard links, and some attributes not.
differ=0
while read -r theirs tag; do
    rm -rf a b
    restic -q -r restic restore "$theirs" --target a
    "$yester" -q restore --tag "$tag" "latest:$work/tree" --target b
    python3 "$here/same_tree.py" --no-holes "a$work/tree" b > differs || { head differs; differ=$((differ + 1)); }
done < <(restic -r restic snapshots --json | python3 -c 'import json, sys
for one in json.load(sys.stdin): print(one["id"], one["tags"][0])')
echo "$count snapshots compared through restores, $differ differ"

# Names, kinds, sizes, modes, owners, times, links and contents, through both mounts.
mkdir theirs ours
restic -r restic mount theirs > mount.log 2>&1 &
restic_mount=$!
trap 'cd /; umount -l "$work/theirs" "$work/ours" 2> /dev/null || true; kill $restic_mount 2> /dev/null || true; rm -rf "$work"' EXIT
until mountpoint -q theirs; do kill -0 $restic_mount || { cat mount.log; exit 1; }; sleep 0.1; done
"$yester" -q mount ours
through=0
while read -r theirs tag ours; do
    # The time and the mode of the snapshot's own root are not the tree's.
    rsync -rlptgoDcni --delete --omit-link-times "theirs/ids/${theirs:0:8}$work/tree/" "ours/ids/${ours:0:8}$work/tree/" > differs
    [ -s differs ] && { head differs; through=$((through + 1)); }
done < <(paste -d' ' <(restic -r restic snapshots --json | python3 -c 'import json, sys
for one in sorted(json.load(sys.stdin), key=lambda one: one["tags"]): print(one["id"], one["tags"][0])') \
    <("$yester" snapshots --json | python3 -c 'import json, sys
lines = [json.loads(line) for line in sys.stdin]
for one in sorted((l for l in lines if l["message_type"] == "snapshot"), key=lambda one: one["tags"]): print(one["id"])'))
echo "$count snapshots compared through both mounts, $through differ"
[ "$differ" = 0 ] && [ "$through" = 0 ]
