#!/usr/bin/env bash
# Installs what building and testing Corelane needs on Debian or Ubuntu, and nothing that is there already.
#
#   tuning/setup.sh [COMMAND...]
#
# Run it as root, or as a user who may use sudo. It asks nothing, can be run again at any time, and needs no network when
# nothing is missing. COMMAND is run at the end, with cargo on its PATH even if cargo was installed just now, for example
# `tuning/setup.sh cargo run --release`.
set -euo pipefail

readonly rust_needed=1.95

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Each need: a test for it, the Debian package that meets it, and what it is for.
missing_packages=()
need() {
    local package=$1 reason=$2
    shift 2
    if ! "$@"; then
        missing_packages+=("$package")
        say "missing: $package ($reason)"
    fi
}

has_libclang() {
    # The library, and the compiler's own headers (stddef.h) beside it: bindgen needs both, and the clang program not.
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null &&
        compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}
# The system's Python, where Debian puts its packages, even if another python3 comes first on PATH.
has_redis_py() { /usr/bin/python3 -c 'import redis' 2>/dev/null; }
has_rq() { /usr/bin/python3 -c 'import rq' 2>/dev/null; }
has_compiler() { has gcc && has g++ && has make; }

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

install_packages() {
    local packages=("$@") policy=/usr/sbin/policy-rc.d policy_is_ours=no status=0
    has apt-get || fail "this machine has no apt-get; install what these Debian packages hold, then run this again: ${packages[*]}"
    ((EUID == 0)) || has sudo || fail "installing packages needs root: run this as root, or install sudo"

    say "installing with apt-get: ${packages[*]}"
    # redis-server is here to compare with, not to serve: keep its service from starting (it would take port 6379), and
    # disable it below. An existing policy is the owner's, and stays.
    if [[ ! -e $policy ]]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    {
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
    } || status=$?
    if [[ $policy_is_ours == yes ]]; then
        as_root rm -f "$policy"
    fi
    ((status == 0)) || fail "apt-get could not install ${packages[*]}; see its message above, and check the network and /etc/apt"

    if [[ " ${packages[*]} " == *' redis-server '* ]] && has systemctl; then
        as_root systemctl disable redis-server >/dev/null 2>&1 ||
            say "could not disable the service redis-server; it may start at the next boot and take port 6379"
    fi
}

# The version of the cargo on PATH, or nothing.
cargo_version() { { cargo --version 2>/dev/null || true; } | sed -nE 's/^cargo ([0-9]+\.[0-9]+).*/\1/p'; }
is_new_enough() { [[ -n $1 ]] && [[ $(printf '%s\n' "$rust_needed" "$1" | sort -V | head -n 1) == "$rust_needed" ]]; }

# Under sudo, Rust belongs to the user who called it.
home=$HOME
if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    # rustup's cargo looks for its toolchains here.
    export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
fi
if [[ -d $home/.cargo/bin ]]; then
    export PATH=$home/.cargo/bin:$PATH
fi

rust_is_missing=no
is_new_enough "$(cargo_version)" || rust_is_missing=yes

need build-essential 'gcc, g++ and make: RocksDB and liburing are compiled from source' has_compiler
need libclang-dev 'libclang: bindgen reads the C headers of RocksDB with it' has_libclang
need git "glommio's build script calls it" has git
need redis-tools 'redis-cli and redis-benchmark' has redis-benchmark
need redis-server 'the tests compare replies with it' has redis-server
need python3-redis 'redis-py: one of the clients that the tests try' has_redis_py
need python3-rq 'RQ: a queue of jobs whose scripts the tests try' has_rq
need bzip2 'the tests unpack recorded machines with it' has bzip2
if [[ $rust_is_missing == yes ]] && ! has rustup; then
    need curl 'fetches rustup' has curl
    need ca-certificates 'fetches rustup' test -e /etc/ssl/certs/ca-certificates.crt
fi
if ((${#missing_packages[@]} > 0)); then
    install_packages "${missing_packages[@]}"
fi

install_rust() {
    local by_hand="install Rust $rust_needed or later from https://rustup.rs, with rustfmt and clippy"
    if [[ $home != "$HOME" ]]; then
        fail "Rust $rust_needed is missing for $SUDO_USER; run this without sudo (it calls sudo itself where it must), or $by_hand"
    fi
    if has rustup; then
        say "Rust is $(cargo_version), and $rust_needed or later is needed: installing the stable toolchain with rustup"
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy ||
            fail "rustup could not install it: $by_hand"
        is_new_enough "$(cargo_version)" ||
            fail "cargo is still $(cargo_version); make the new one the default with: rustup default stable"
        return
    fi
    say "Rust $rust_needed or later is missing: installing it with rustup into $HOME/.cargo and $HOME/.rustup"
    local installer status=0
    installer=$(mktemp)
    {
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail --location https://sh.rustup.rs --output "$installer" &&
            sh "$installer" -y --quiet --profile minimal --component rustfmt --component clippy
    } || status=$?
    rm -f "$installer"
    ((status == 0)) || fail "rustup could not be fetched or run: $by_hand"
    export PATH=$HOME/.cargo/bin:$PATH
    is_new_enough "$(cargo_version)" || fail "cargo is $(cargo_version) in spite of rustup: $by_hand"
    say 'new shells find cargo by themselves; in this one run: . "$HOME/.cargo/env"'
}
if [[ $rust_is_missing == yes ]]; then
    install_rust
fi
if ! has cargo-fmt || ! has cargo-clippy; then
    # Only the tests need them: building does not stop for that.
    say 'rustfmt or clippy is missing: adding them with rustup'
    rustup component add rustfmt clippy || say 'could not add them; tuning/test.sh needs both'
fi

say "ready: cargo $(cargo_version), $(g++ --version | head -n 1), $(redis-server --version | cut -d' ' -f1-3)"
if (($# > 0)); then
    exec "$@"
fi
