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

# Versions and delete markers: stored, not read again, and put back in their order into a bucket that is made anew.
cat >> "$W/.config/yester/config.toml" <<CONF
[sets.versions]
[[sets.versions.buckets]]
at = "/versions"
url = "s3:$endpoint/yester-versions"
versions = true
CONF
s3 -o /dev/null -X PUT -H "x-amz-content-sha256: $nothing" "$endpoint/yester-versions"
putv() { echo "$2" > "$W/v"; s3 -o /dev/null -X PUT -H "x-amz-content-sha256: $(sha256sum "$W/v" | cut -d' ' -f1)" -H "x-amz-meta-who: $2" -H "x-amz-tagging: n=$2" --data-binary "@$W/v" "$endpoint/yester-versions/$1"; }
delv() { s3 -o /dev/null -X DELETE -H "x-amz-content-sha256: $nothing" "$endpoint/yester-versions/$1"; }
putv early before
on='<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>'
printf %s "$on" > "$W/on"
s3 -o /dev/null -X PUT -H "x-amz-content-sha256: $(sha256sum "$W/on" | cut -d' ' -f1)" --data-binary "@$W/on" "$endpoint/yester-versions?versioning="
putv early after
for n in 1 2 3; do putv a "$n"; putv a/b "$n"; done
putv gone x; delv gone
putv back 1; delv back; putv back 2
"$program" ingest --set versions
"$program" ls -R latest:/versions
"$program" ingest --set versions 2>&1 | tee "$W/again"
grep -q "0 new, 0 changed" "$W/again"
# What was the newest is an old one now, and is not read.
putv a 4
"$program" ingest --set versions 2>&1 | tee "$W/again"
grep -q "1 new\|1 changed" "$W/again"
"$program" restore latest:/versions --target "$W/v1"
# The bucket is lost: into another one, which is made.
"$program" restore --set versions --bucket "/versions=s3:$endpoint/yester-versions-$$" --object-versions
"$program" restore --set versions --bucket "/versions=s3:$endpoint/yester-versions-$$" --object-versions 2>&1 | tee "$W/again"
grep -q ": 0 objects" "$W/again"
sed -i "s,/yester-versions\",/yester-versions-$$\"," "$W/.config/yester/config.toml"
"$program" ingest --set versions --force
"$program" restore latest:/versions --target "$W/v2"
# Ids and times are new; what there is of each key, and in which order, is the same.
contents() { (cd "$1" && find . -type f | LC_ALL=C sort | while IFS= read -r f; do
  printf '%s %s %s\n' "$(dirname "$f")" "$(cat "$f")" "$(getfattr -d "$f" 2>/dev/null | grep -e meta -e tags -e marker -e latest | tr '\n' ' ')"; done); }
diff <(contents "$W/v1") <(contents "$W/v2")
rm -rf "$W"
echo "buckets and their versions come back"
