#!/bin/bash
# Asks the job API of a real server thousands of made-up questions, by its own OpenAPI document: no answer may be a 5xx, or
# be outside the document. Needs python3 with venv, the network (schemathesis comes from PyPI), curl. Not part of .ci/run.
#   tests/schemathesis.sh [EXAMPLES]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --quiet
yester=$(realpath "${CARGO_TARGET_DIR:-target}/debug/yester")
dir=$(mktemp -d); trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT
export HOME=$dir YESTER_TOKEN_FILE=$dir/token
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install -q schemathesis
"$yester" serve token create pg --root "$dir/root" --can put,get,list,agent,jobs | head -1 >"$dir/token"
chmod 600 "$dir/token"
"$yester" serve --root "$dir/root" --listen 127.0.0.1:0 >"$dir/log" 2>&1 & server=$!
until address=$(grep -oP 'listening on \K\S+' "$dir/log"); do sleep 0.1; done
export YESTER_TLS_FINGERPRINT=$(grep -oP 'tls-fingerprint \K[0-9a-f]+' "$dir/log")
"$yester" --repo "https://$address/pg" --key-file "$dir/key" init >/dev/null 2>&1
for host in pg1 pg2; do
  curl -ksSf "https://$address/api/v1/jobs" -u "x:$(cat "$dir/token")" --json '{"kind":"ingest","host":"'$host'","set":"pg"}' >/dev/null
done
cd "$dir" # It leaves folders of its own.
# What the document cannot say (a check has no set; 37.0 is no integer here) may be refused: positive_data_acceptance.
"$dir/venv/bin/schemathesis" run "https://$address/api/v1/openapi.json" --tls-verify false --max-examples "${1:-100}" \
  -H "Authorization: Bearer $(cat "$dir/token")" --request-timeout 70 --phases coverage,fuzzing \
  --exclude-checks positive_data_acceptance
