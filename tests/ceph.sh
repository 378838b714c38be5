#!/bin/bash
# yester on Ceph's own S3 gateway: the suite of every storage, the oracle, every command, and ingests that are killed.
# First of all buckets of sets: tests/buckets.sh.
#   tests/ceph.sh DIR [PROGRAM]    DIR keeps the cluster (8 GiB sparse); PROGRAM is target/debug/yester without one
# Root, Debian 12: installs Ceph's packages if need be and builds a cluster of one of each on loopback, in about 15 s.
# With YESTER_TEST_S3 set to a place in another store, and AWS_ variables, it uses that instead.
set -euo pipefail
D=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
program=$(realpath "${2:-$here/target/debug/yester}")
conf=$D/ceph.conf

stop() {
  for f in "$D"/*.pid; do
    [ -e "$f" ] || continue
    kill "$(cat "$f")" 2>/dev/null || true
  done
}

start() {
  command -v radosgw >/dev/null || {
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      ceph-mon ceph-mgr ceph-osd radosgw ceph-common curl >/dev/null
  }
  local fresh= fsid osd
  [ -e "$conf" ] || fresh=1
  if [ $fresh ]; then
    fsid=$(cat /proc/sys/kernel/random/uuid)
    cat > "$conf" <<CONF
[global]
fsid = $fsid
mon host = 127.0.0.1:6789
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
run dir = $D
admin socket = $D/\$cluster-\$name.\$pid.asok
pid file = $D/\$name.pid
log file = $D/\$name.log
mon data = $D/mon.\$id
osd data = $D/osd.\$id
mgr data = $D/mgr.\$id
osd objectstore = bluestore
bluestore block size = 8589934592
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:7480
rgw dns name = 127.0.0.1
CONF
    monmaptool --create --clobber --fsid "$fsid" --addv a '[v1:127.0.0.1:6789]' "$D/monmap" >/dev/null
    ceph-mon -c "$conf" --mkfs -i a --monmap "$D/monmap"
  fi
  ceph-mon -c "$conf" -i a
  mkdir -p "$D/mgr.x" "$D/osd.0"
  ceph-mgr -c "$conf" -i x
  if [ $fresh ]; then
    osd=$(cat /proc/sys/kernel/random/uuid)
    timeout 60 ceph -c "$conf" osd new "$osd" 0 >/dev/null
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" 2>/dev/null
  fi
  ceph-osd -c "$conf" -i 0 2>/dev/null
  timeout 120 radosgw -c "$conf" -n client.rgw 2>/dev/null
  for _ in $(seq 240); do curl -s -o /dev/null http://127.0.0.1:7480/ && break; sleep 0.5; done
  [ ! $fresh ] || radosgw-admin -c "$conf" -n client.rgw user create --uid t --display-name t \
    --access-key AK --secret-key SK >/dev/null 2>&1
}

if [ -z "${YESTER_TEST_S3:-}" ]; then
  trap stop EXIT
  curl -s -o /dev/null http://127.0.0.1:7480/ || start
  export AWS_ACCESS_KEY_ID=AK AWS_SECRET_ACCESS_KEY=SK AWS_REGION=default
  nothing=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  curl -s -o /dev/null -w 'bucket: %{http_code}\n' -X PUT -H "x-amz-content-sha256: $nothing" --aws-sigv4 aws:amz:default:s3 --user AK:SK http://127.0.0.1:7480/yester
  "$here/tests/buckets.sh" "$program" http://127.0.0.1:7480
  export YESTER_TEST_S3=s3:http://127.0.0.1:7480/yester/$(date +%s)
fi
cd "$here"
cargo test --locked --test network -- --nocapture store::a_store_of_ones_own

# Ingests that are killed at any time leave nothing that has to be mended.
W=$(mktemp -d)
export HOME=$W YESTER_REPO=$YESTER_TEST_S3/killed YESTER_KEY_FILE=$W/key
mkdir "$W/src"
for n in $(seq 200); do head -c $((RANDOM * 8)) /dev/urandom > "$W/src/$n"; done
"$program" init
for n in $(seq 20); do
  head -c 3000000 /dev/urandom > "$W/src/new$n"
  "$program" -q ingest "$W/src" & pid=$!
  sleep "0.$((RANDOM % 9))"
  kill -9 $pid 2>/dev/null || true
  wait $pid 2>/dev/null || true
  [ $((n % 5)) != 0 ] || { "$program" -q forget --keep-last 1 --prune; "$program" -q check; }
done
"$program" --stats ingest "$W/src"
"$program" --stats ingest "$W/src"
"$program" --stats forget --keep-last 1 --prune
"$program" --stats check --read-data
mkdir "$W/mnt"
"$program" mount "$W/mnt"
diff -r "$W/src" "$W/mnt/latest$W/src"
"$program" umount "$W/mnt"
"$program" --stats -q restore "latest:$W/src" --target "$W/out"
diff -r "$W/src" "$W/out"
rm -rf "$W"
echo "all is well"
