#!/bin/bash
# A bucket of a real gateway in a set: stored, known again, lost, put back, compared. tests/ceph.sh calls it.
#   tests/buckets.sh PROGRAM ENDPOINT    the keys are AK and SK
set -euo pipefail
program=$1; endpoint=$2
export AWS_ACCESS_KEY_ID=AK AWS_SECRET_ACCESS_KEY=SK AWS_REGION=default
W=$(mktemp -d); export HOME=$W
mkdir -p "$W/.config/yester"
cat > "$W/.config/yester/config.toml" <<CONF
[repository]
location = "$W/repo"
key-file = "$W/key"
[sets.store]
[[sets.store.buckets]]
at = "/buckets/registry"
url = "s3:$endpoint/yester-registry"
rate = 200
CONF
"$program" -q init
nothing=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
s3() { curl -sS --fail --path-as-is --aws-sigv4 aws:amz:default:s3 --user AK:SK "$@"; }
s3 -o /dev/null -X PUT -H "x-amz-content-sha256: $nothing" "$endpoint/yester-registry"
head -c 20000000 /dev/urandom > "$W/big"
put() { # KEY FILE HEADER...
  local key=$1 file=$2; shift 2
  s3 -o /dev/null -X PUT -H "x-amz-content-sha256: $(sha256sum "$file" | cut -d' ' -f1)" "$@" --data-binary "@$file" "$endpoint/yester-registry/$key"
}
echo small > "$W/small"
for key in plain.txt a a/b a//b a/ 100%25 with%20space%2Bplus %C3%BCml%C3%A4ut/x new%0Aline; do
  put "$key" "$W/small" -H "content-type: text/plain" -H "x-amz-meta-who: me" -H "x-amz-tagging: env=prod&team=red%20one"
done
put big "$W/big" -H "content-type: application/x-big"
"$program" ingest --set store
"$program" ingest --set store
"$program" ls -R latest:/buckets
"$program" restore --set store --target "$W/one"
# The bucket is lost.
"$program" restore --set store --delete-objects -n
for key in plain.txt a a/b a//b a/ 100%25 with%20space%2Bplus %C3%BCml%C3%A4ut/x new%0Aline big; do
  s3 -o /dev/null -X DELETE -H "x-amz-content-sha256: $nothing" "$endpoint/yester-registry/$key"
done
s3 -o /dev/null -X DELETE -H "x-amz-content-sha256: $nothing" "$endpoint/yester-registry"
"$program" restore --set store
"$program" restore --set store
"$program" ingest --set store --force
"$program" restore --set store --target "$W/two"
diff -r "$W/one" "$W/two"
attributes() { (cd "$1" && find . -type f | LC_ALL=C sort | while IFS= read -r f; do getfattr -d "$f" 2>/dev/null; done | grep -v -e etag); }
diff <(attributes "$W/one") <(attributes "$W/two")
s3 -I -H "x-amz-content-sha256: $nothing" "$endpoint/yester-registry/a//b" | grep -i -e x-amz-meta-who -e tagging-count -e content-type
rm -rf "$W"
echo "buckets come back"
