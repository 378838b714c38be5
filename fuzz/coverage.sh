#!/bin/bash
# Which lines of the decoders the fuzz targets reach, with their seeds and what they have found so far (fuzz/corpus).
#   fuzz/coverage.sh [OUT]     builds with coverage below OUT (default fuzz/coverage), prints lines reached by file,
#                              and leaves OUT/missed.txt with every line that was not
# Needs llvm-profdata and llvm-cov of the LLVM that rustc was built with (`rustc -vV`), on PATH or in LLVM_BIN.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-fuzz/coverage}" && cd "${1:-fuzz/coverage}" && pwd)
llvm() { local tool=$1; shift; ${LLVM_BIN:+$LLVM_BIN/}"$tool" "$@"; }
# Build scripts are instrumented too, and would leave their profiles wherever they run.
LLVM_PROFILE_FILE="$out/build.profraw" RUSTFLAGS="-C instrument-coverage" cargo build -q --release --manifest-path fuzz/Cargo.toml --target-dir "$out/build"
rm -f "$out"/*.profraw
objects=()
for target in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$target" .rs)
    binary="$out/build/release/$target"
    objects+=(-object "$binary")
    # The inputs are named one by one: without the fuzzer's own instrumentation there is nothing to be guided by.
    find "fuzz/seeds/$target" "fuzz/corpus/$target" -type f 2>/dev/null | head -n "${INPUTS:-1000}" |
        LLVM_PROFILE_FILE="$out/$target.profraw" xargs -r "$binary" >"$out/$target.log" 2>&1
done
llvm llvm-profdata merge -sparse "$out"/*.profraw -o "$out/all.profdata"
sources=(src/format src/chunk/codec.rs src/chunk/cutter.rs src/chunk/seal.rs)
llvm llvm-cov report "${objects[@]:1}" -instr-profile "$out/all.profdata" "${sources[@]}" 2>/dev/null |
    awk '$1 ~ /\.rs$|^TOTAL/ {printf "%-24s %5d lines %5d missed %8s\n", $1, $8, $9, $10}'
llvm llvm-cov show "${objects[@]:1}" -instr-profile "$out/all.profdata" -show-line-counts "${sources[@]}" 2>/dev/null |
    awk '/^\/.*:$/ {file = $0} /\|  *0\|/ {print file $0}' >"$out/missed.txt"
