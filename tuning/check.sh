#!/usr/bin/env bash
# Looks at this machine as Corelane will find it, and says what to change. Reads only, but for a small file that is written
# to measure the disk, and removed.
#
#   tuning/check.sh [--strict] [DIRECTORY]
#
# DIRECTORY is where the data will be (default: here). Each line is ok, warn (works, but worse than it could) or bad (will not
# start, or not safely), with a remedy. The exit code is 0; with --strict it is 1 unless every line is ok.
# Not -e: a check that cannot read something says so, and the others go on.
set -uo pipefail

strict=no
directory=.
for argument in "$@"; do
    case $argument in
    --strict) strict=yes ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*)
        echo "check: unknown option $argument; the only one is --strict" >&2
        exit 2
        ;;
    *) directory=$argument ;;
    esac
done
if [[ ! -d $directory ]]; then
    echo "check: $directory is not a directory; name the one in which the data directory is or will be" >&2
    exit 2
fi

all_ok=yes
# report STATUS WHAT FOUND [REMEDY]
report() {
    local status=$1 what=$2 found=$3 remedy=${4:-}
    printf '%-5s %-18s %s\n' "$status" "$what" "$found"
    if [[ $status != ok ]]; then
        all_ok=no
        printf '      %-18s -> %s\n' '' "$remedy"
    fi
}

# The content of a file, or the second argument if it cannot be read.
content() { cat "$1" 2>/dev/null || printf '%s' "${2:-}"; }

# at_least HAVE WANT: compares versions such as 6.1 and 5.19.
at_least() { [[ $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

cpus=$(nproc)

check_kernel() {
    local release
    release=$(uname -r)
    if ! at_least "$release" 5.8; then
        report bad kernel "Linux $release" 'start Linux 5.8 or later; glommio needs its io_uring operations'
    elif ! at_least "$release" 5.19; then
        report warn kernel "Linux $release" 'start 5.19 or later: without cooperative task running each request costs an interrupt'
    else
        report ok kernel "Linux $release"
    fi
}

check_cpu() {
    [[ $(uname -m) == x86_64 ]] || {
        report ok cpu "$cpus usable, $(uname -m)"
        return
    }
    local flags feature missing=()
    flags=" $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1) "
    for feature in avx2 bmi1 bmi2 f16c fma movbe abm pclmulqdq; do
        [[ $flags == *" $feature "* ]] || missing+=("$feature")
    done
    if ((${#missing[@]} > 0)); then
        report bad cpu "lacks ${missing[*]}" 'take the `rustflags` line out of .cargo/config.toml before building'
    else
        report ok cpu "$cpus usable, x86-64-v3 with pclmulqdq"
    fi
}

check_io_uring() {
    local disabled filter
    disabled=$(content /proc/sys/kernel/io_uring_disabled 0)
    filter=$(sed -n 's/^Seccomp:[[:space:]]*//p' /proc/self/status)
    if [[ $disabled != 0 ]]; then
        report bad io_uring "kernel.io_uring_disabled is $disabled" 'sysctl -w kernel.io_uring_disabled=0'
    elif [[ $filter == 2 ]]; then
        report warn io_uring 'allowed by sysctl, but this process is under a seccomp filter' \
            'if the server says that io_uring is forbidden: allow io_uring_setup, io_uring_enter and io_uring_register there'
    else
        report ok io_uring 'allowed'
    fi
}

check_locked_memory() {
    local hard needed=$((504 * cpus)) capabilities
    hard=$(ulimit -H -l)
    capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    # CAP_IPC_LOCK (bit 14): nothing is charged then, and glommio's own floor is all.
    if (((16#$capabilities >> 14) & 1)); then
        needed=512
    elif ((needed < 512)); then
        needed=512
    fi
    if [[ $hard == unlimited ]] || ((hard >= needed)); then
        report ok 'locked memory' "hard limit $hard KiB, $needed needed for $cpus executors"
    else
        report bad 'locked memory' "hard limit $hard KiB, $needed needed for $cpus executors" \
            "ulimit -l $needed as root, LimitMEMLOCK=${needed}K in a systemd unit, or --ulimit memlock= in Docker"
    fi
}

check_open_files() {
    local hard
    hard=$(ulimit -H -n)
    if [[ $hard == unlimited ]] || ((hard >= 12000)); then
        report ok 'open files' "hard limit $hard"
    else
        report warn 'open files' "hard limit $hard" \
            'allow 12000 (10,000 clients, and the tables): LimitNOFILE= in a systemd unit, or --ulimit nofile= in Docker'
    fi
}

check_governor() {
    local governors
    governors=$(cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>/dev/null | sort -u | paste -sd ' ')
    if [[ -z $governors ]]; then
        report ok governor 'none to see here (a virtual machine, or fixed by the firmware)'
    elif [[ $governors == performance ]]; then
        report ok governor performance
    else
        report warn governor "$governors" 'cpupower frequency-set -g performance'
    fi
}

check_clock() {
    local source
    source=$(content /sys/devices/system/clocksource/clocksource0/current_clocksource unknown)
    case $source in
    hpet | acpi_pm | jiffies)
        report warn clock "$source: a system call for each reading of the time" 'boot with clocksource=tsc if the CPU has a constant one'
        ;;
    *) report ok clock "$source" ;;
    esac
}

check_huge_pages() {
    local setting
    setting=$(content /sys/kernel/mm/transparent_hugepage/enabled)
    if [[ $setting == *'[always]'* ]]; then
        report warn 'huge pages' "transparent huge pages are $setting" \
            'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: compaction of memory stalls executors'
    else
        report ok 'huge pages' "${setting:-not built in}"
    fi
}

check_numa() {
    local nodes balancing
    nodes=$(compgen -G '/sys/devices/system/node/node[0-9]*' | wc -l)
    balancing=$(content /proc/sys/kernel/numa_balancing 0)
    if ((nodes > 1)) && [[ $balancing != 0 ]]; then
        report warn NUMA "$nodes nodes, automatic balancing on" \
            'sysctl -w kernel.numa_balancing=0: executors are pinned and their memory is local already'
    else
        report ok NUMA "$((nodes > 0 ? nodes : 1)) node(s), automatic balancing $([[ $balancing == 0 ]] && echo off || echo on)"
    fi
}

check_swap() {
    local areas swappiness
    areas=$(($(wc -l </proc/swaps) - 1))
    swappiness=$(content /proc/sys/vm/swappiness 60)
    if ((areas > 0 && swappiness > 10)); then
        report warn swap "$areas area(s), vm.swappiness $swappiness" \
            'sysctl -w vm.swappiness=1, or swapoff -a: an executor that waits for swapped memory serves nobody'
    else
        report ok swap "$areas area(s), vm.swappiness $swappiness"
    fi
}

check_backlog() {
    local backlog
    backlog=$(content /proc/sys/net/core/somaxconn 4096)
    if ((backlog < 1024)); then
        report warn backlog "net.core.somaxconn is $backlog" 'sysctl -w net.core.somaxconn=4096: bursts of connections are dropped'
    else
        report ok backlog "net.core.somaxconn is $backlog"
    fi
}

check_file_system() {
    local kind free_mib
    kind=$(df --output=fstype -- "$directory" | tail -n 1)
    case $kind in
    tmpfs | ramfs) report warn 'file system' "$kind at $directory" 'data there is lost at a restart of the machine; use a disk' ;;
    overlay) report warn 'file system' "$kind at $directory" 'a container layer is slow and goes with the container; mount a volume' ;;
    nfs* | smb3 | cifs | fuse* | 9p) report warn 'file system' "$kind at $directory" 'locks and syncs depend on another program; use a local disk' ;;
    *) report ok 'file system' "$kind at $directory" ;;
    esac
    free_mib=$(df -P -k -- "$directory" | awk 'NR == 2 { print int($4 / 1024) }')
    if ((free_mib < 64)); then
        report bad 'free space' "$free_mib MiB" 'make room: the server does not start with less than 64 MiB'
    elif ((free_mib < 4096)); then
        report warn 'free space' "$free_mib MiB" 'leave some GiB: a compaction writes its outcome before it drops its input'
    else
        report ok 'free space' "$free_mib MiB"
    fi
}

# Half, 99 % and all of 300 appends of 256 bytes, each followed by fdatasync, took at most so many microseconds: what
# `durability always` waits for.
sync_latencies_us() {
    python3 - "$1" <<'PYTHON'
import os, sys, time

descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
block = b"x" * 256
latencies = []
for _ in range(300):
    os.write(descriptor, block)
    start = time.perf_counter()
    os.fdatasync(descriptor)
    latencies.append((time.perf_counter() - start) * 1e6)
latencies.sort()
print(int(latencies[150]), int(latencies[297]), int(latencies[-1]))
PYTHON
}

check_disk_sync() {
    local file middle high longest found start
    if ! file=$(mktemp -- "$directory/.corelane-check-XXXXXX" 2>/dev/null); then
        report warn 'disk sync' "not measured: $directory is not writable" 'name a directory that you may write in'
        return
    fi
    # Removed also when the check is interrupted.
    # shellcheck disable=SC2064
    trap "rm -f -- $(printf '%q' "$file")" EXIT
    if command -v python3 >/dev/null 2>&1; then
        read -r middle high longest < <(sync_latencies_us "$file")
        found="p50 $middle µs, p99 $high µs, longest $longest µs (300 appends of 256 bytes with fdatasync)"
    else
        # Without python3 only the mean can be had.
        start=$(date +%s%N)
        dd if=/dev/zero of="$file" bs=256 count=300 oflag=append,dsync conv=notrunc status=none
        middle=$((($(date +%s%N) - start) / 300000))
        high=$middle
        found="mean $middle µs (300 appends of 256 bytes with O_DSYNC; install python3 for p50 and p99)"
    fi
    rm -f -- "$file"
    trap - EXIT
    if ((middle < 20)); then
        report warn 'disk sync' "$found" \
            'faster than any disk: check that this is one, and that its host does not leave syncs out, before relying on always'
    elif ((high > 20000)); then
        report warn 'disk sync' "$found" 'with durability always a write waits that long; use a disk with power-loss protection, or interval'
    else
        report ok 'disk sync' "$found"
    fi
}

check_kernel
check_cpu
check_io_uring
check_locked_memory
check_open_files
check_governor
check_clock
check_huge_pages
check_numa
check_swap
check_backlog
check_file_system
check_disk_sync

if [[ $strict == yes && $all_ok == no ]]; then
    exit 1
fi
