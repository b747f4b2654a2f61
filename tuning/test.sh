#!/usr/bin/env bash
# All tests: format, lints, tests, and every benchmark once, small. What README's test command and .ci/run call.
#
# RocksDB, most of a build from nothing, is compiled once: all steps use the release profile's settings (the bench
# profile inherits them), and so share its build script's output.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A test that kills servers must not leave core dumps, and one that opens 5,000 connections needs the descriptors.
ulimit -c 0
ulimit -n "$(ulimit -H -n)"

summary=()
step() {
    local name=$1 started=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    if ! "$@"; then
        printf '\n%s failed after %d s: %s\n' "$name" "$((SECONDS - started))" "$*" >&2
        exit 1
    fi
    summary+=("$(printf '%-8s %5d s' "$name" "$((SECONDS - started))")")
}

step format cargo fmt --check
step build cargo build --release --features fault-injection
step lints cargo clippy --release --all-targets --features fault-injection -- -D warnings
# Tests that measure time, memory or stalls must not measure the others: they run last, one at a time.
measuring=(stalls slow_readers fairness lifecycle longest_turns)
step tests cargo test --release --features fault-injection -- "${measuring[@]/#/--skip=}"
step measured cargo test --release --features fault-injection --test suite -- "${measuring[@]}" --test-threads=1
step benches cargo bench --features fault-injection -- --test

printf '\nAll passed.\n'
printf '%s\n' "${summary[@]}"
