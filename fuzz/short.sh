#!/bin/bash
# Every fuzz target without guidance: all build, and no seed, no changed seed and no random input makes one fail.
#   fuzz/short.sh [INPUTS]     random inputs, and changed copies of each seed, for each target; default 20
# It shares what `cargo test` has built, so it takes a few minutes where the guided fuzzer has everything to build
# anew. For that one:
#   cargo fuzz run TARGET fuzz/corpus/TARGET fuzz/seeds/TARGET -s none
set -euo pipefail
cd "$(dirname "$0")/.."
inputs=${1:-20}
cargo build --locked --manifest-path fuzz/Cargo.toml --target-dir target --bins
scratch=$(mktemp -d)
for target in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$target" .rs)
    python3 - "$scratch/$target" "fuzz/seeds/$target" "$inputs" <<'PYTHON'
import os, random, sys
out, seeds, inputs = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(out)
made = [os.urandom(random.randrange(1, 512)) for _ in range(inputs)]
for name in os.listdir(seeds) if os.path.isdir(seeds) else []:
    seed = open(os.path.join(seeds, name), "rb").read()
    made.append(seed)
    for _ in range(inputs):
        bytes_ = bytearray(seed)
        for _ in range(random.randrange(1, 5)):
            at = random.randrange(len(bytes_) + 1)
            match random.randrange(3):
                case 0 if at < len(bytes_): bytes_[at] ^= 1 << random.randrange(8)
                case 1: bytes_[at:at] = os.urandom(random.randrange(1, 9))
                case _: del bytes_[at:at + random.randrange(1, 9)]
        made.append(bytes(bytes_))
for number, bytes_ in enumerate(made):
    open(os.path.join(out, f"{number:05}"), "wb").write(bytes_)
PYTHON
    find "$scratch/$target" -type f -print0 | sort -z |
        timeout 600 xargs -0 "target/debug/$target" -artifact_prefix="$scratch/" >"$scratch/log" 2>&1 ||
        { tail -n 40 "$scratch/log"; echo "$target failed; its inputs are in $scratch/$target" >&2; exit 1; }
    echo "$target: $(grep -c '^Executed' "$scratch/log") inputs"
done
rm -rf "$scratch"
