#!/bin/bash
# The suite of every storage, random operations and every command on Azurite, Microsoft's emulator of Azure Blob Storage:
#   npm install azurite@3.37.0 && tests/azurite.sh node_modules/.bin/azurite-blob
# Once with the account's key, and once with a SAS token of the container. Needs node and python3. A second word is the port.
set -euo pipefail
program=$(realpath "$1")
port=${2:-10000}
cd "$(dirname "$0")/.."
log=$(mktemp)
"$program" --inMemoryPersistence --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port" >"$log" 2>&1 &
azurite=$!
trap 'kill "$azurite"; rm -f "$log"' EXIT
until grep -q 'successfully listens' "$log"; do
    kill -0 "$azurite" || { cat "$log"; exit 1; }
    sleep 0.2
done

# Makes a container, and prints the key (which everybody knows) or a SAS token of the container.
credential() {
    python3 - "$port" "$1" "$2" <<'PYTHON'
import base64, hashlib, hmac, http.client, sys, time, urllib.parse
port, container, kind = sys.argv[1:]
account = "devstoreaccount1"
key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
def sign(text):
    return base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
path = f"/{account}/{container}"
own = {"x-ms-date": date, "x-ms-version": "2023-11-03"}
text = "PUT" + "\n" * 12 + "".join(f"{n}:{v}\n" for n, v in own.items()) + f"/{account}{path}\nrestype:container"
request = http.client.HTTPConnection("127.0.0.1", int(port))
request.request("PUT", path + "?restype=container", b"", {**own, "Authorization": f"SharedKey {account}:{sign(text)}"})
answer = request.getresponse()
if answer.status != 201:
    sys.exit(f"no container: {answer.status} {answer.read()}")
until, version, rights = "2100-01-01T00:00:00Z", "2020-12-06", "racwdl"
text = "\n".join([rights, "", until, f"/blob{path}", "", "", "", version, "c", "", "", "", "", "", "", ""])
token = urllib.parse.urlencode({"sv": version, "sr": "c", "sp": rights, "se": until, "sig": sign(text)})
print(key if kind == "key" else token)
PYTHON
}

export CARGO_TERM_COLOR=never
place=azure:http://127.0.0.1:$port/devstoreaccount1
key=$(credential bykey key)
YESTER_TEST_S3=$place/bykey/x AZURE_STORAGE_ACCOUNT_KEY=$key cargo test --locked --test network store::a_store_of_ones_own
token=$(credential bytoken sas)
YESTER_TEST_S3=$place/bytoken/x AZURE_STORAGE_SAS_TOKEN=$token cargo test --locked --test network store::a_store_of_ones_own
