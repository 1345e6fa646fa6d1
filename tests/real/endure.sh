#!/bin/bash
# endure.sh BINARY VERSION: runs that are killed, registries that are killed, a blob of 1 GiB, and a machine that offers
# next to nothing, with real registries: for 2.8 docker-registry of Debian, for 3 distribution 3, where Go is at hand.
# Prints a line for each check and `N passed, M failed` at the end.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: endure.sh BINARY VERSION}")
version=${2:?usage: endure.sh BINARY VERSION}

for tool in docker-registry python3; do
    if ! command -v $tool >/dev/null; then
        echo "SKIPPED: no $tool here, nothing was tried against real registries" >&2
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
done
# shellcheck source=lib.sh
. "$here/lib.sh"

# in_sync FROM-REPOSITORY TO-REPOSITORY: both have the same tags with the same digests, and the target is complete.
in_sync() {
    python3 "$here/registry.py" same "$1" "$2"
}

# stop NAME: ends a registry at once, as a crash does.
stop() {
    kill -9 "$(cat "$work/$1.pid")"
    wait "$(cat "$work/$1.pid")" 2>/dev/null || true
}

# begin NAME ...: as `start`, and notes whom to stop.
begin() {
    start "$@"
    echo "${registries[-1]}" >"$work/$1.pid"
}

# resumed SOURCE TARGET: a run that is killed in the middle of a blob, and the next one, which sends the rest where
# the registry keeps what it has got, and the whole blob where it does not.
resumed() {
    local records=$work/records sent
    "$binary" --records "$records" "$1/large" "$2/resumed" >/dev/null 2>&1 &
    for _ in $(seq 200); do
        if grep -q '"upload"' "$records" 2>/dev/null; then break; fi
        sleep 0.05
    done
    kill -9 $! 2>/dev/null || true
    wait $! 2>/dev/null || true
    check "$version: a run was killed in the middle of a blob" grep -q '"upload"' "$records"
    sync resumed --log-level debug --records "$records" "$1/large" "$2/resumed"
    check "$version: the next run" ended resumed 0 0 0
    check "$version: the blob is whole" in_sync "$1/large" "$2/resumed"
    sent=$(grep -oE ' PATCH .* 202 [0-9]+' "$work/resumed.err" | grep -oE '[0-9]+$' | awk "{ sum += \$1 } END { print sum + 0 }")
    echo "      $sent of 1073741824 bytes were sent in the second run"
    [ "$version" != 3 ] || check "$version: what the registry had was not sent again" [ "$sent" -lt 1073741824 ]
}

# endure: all but the empty machine.
endure() {
    local source target counted log=$work/requests
    free_ports 3
    source=127.0.0.1:${ports[0]} target=127.0.0.1:${ports[1]} counted=127.0.0.1:${ports[2]}
    begin source "${ports[0]}"
    begin target "${ports[1]}"
    : >"$log"
    python3 "$here/proxy.py" serve "${ports[2]}" "${ports[1]}" "$log" &
    registries+=($!)
    answers "${ports[2]}"
    python3 "$here/registry.py" series "$source" small 60 20000
    python3 "$here/registry.py" series "$source" large 1 1073741824

    sync large --records "$work/large" "$source/large" "$target/large"
    check "$version: a blob of 1 GiB" ended large 0 0 0
    check "$version: it is whole" in_sync "$source/large" "$target/large"

    resumed "$source" "$target"

    # How long a run takes undisturbed, in milliseconds.
    local began length wait
    began=$(date +%s%N)
    sync calm --records "$work/calm" "$source/small" "$counted/calm"
    length=$((($(date +%s%N) - began) / 1000000))
    check "$version: 60 images in peace" ended calm 0 0 0
    local moments
    for try in $(seq 50); do
        moments=()
        for _ in 1 2; do
            wait=$((RANDOM % (length + 1)))
            moments+=("$wait")
            (cd "$root" && exec "$binary" --records "$work/killed-$try" "$source/small" "$counted/killed$try") \
                >/dev/null 2>&1 &
            sleep "$((wait / 1000)).$(printf '%03d' $((wait % 1000)))"
            kill -9 $! 2>/dev/null || true
            wait $! 2>/dev/null || true
            # What was on its way comes to its end first.
            until python3 "$here/proxy.py" idle "$log"; do sleep 0.05; done
        done
        sync after --records "$work/killed-$try" "$source/small" "$counted/killed$try"
        check "$version: killed after ${moments[0]} and ${moments[1]} of $length ms, and run again" ended after 0 0 0
        check "$version: the copy is complete" in_sync "$source/small" "$target/killed$try"
    done
    check "$version: no blob was sent again, and no more than was on its way at the kills" \
        python3 "$here/proxy.py" judge "$log" calm killed 2 5
    sed 's/^/      /' "$work/check"

    (
        for _ in 1 2 3 4; do
            sleep "$(printf '0.%03d' $((length / 6 % 1000)))"
            stop target
            begin target "${ports[1]}"
        done
        echo "${registries[-1]}" >"$work/restarted"
    ) &
    local restarts=$!
    sync restarted --retries 5 --records "$work/restarted-records" "$source/small" "$target/restarted"
    wait $restarts
    registries+=("$(cat "$work/restarted")")
    check "$version: a target that is killed and started again four times" ended restarted 0 0 0
    check "$version: the copy is complete" in_sync "$source/small" "$target/restarted"
}

# bare SOURCE TARGET: the program alone in an empty root folder that it cannot write to, with a user id that nobody has,
# no environment, and 256 MiB of addresses.
bare() {
    local folder=$work/bare
    mkdir -p "$folder"
    cp "$binary" "$folder/image-syncer"
    echo "{\"images\": {\"$1\": \"$2\"}}" >"$folder/image-syncer.json"
    chmod -R a+rX "$folder"
    chmod a+rx "$work"
    (
        ulimit -v 262144
        exec env -i "$(command -v chroot)" --userspec=54321:54321 "$folder" /image-syncer --config /image-syncer.json --proc 8
    )
}

# distribution_3: builds it, or says why not.
distribution_3() {
    if ! command -v go >/dev/null; then
        echo "SKIPPED: no go here, nothing was tried with distribution 3" >&2
        return 1
    elif ! GOBIN=$work/bin GOFLAGS=-modcacherw go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2 \
        >"$work/go" 2>&1; then
        tail -n 3 "$work/go" >&2
        echo "SKIPPED: distribution 3 could not be built, nothing was tried with it" >&2
        return 1
    fi
    PROGRAM=$work/bin/registry
}

if [ "$version" = 2.8 ] || distribution_3; then
    endure
    if file "$binary" 2>/dev/null | grep -qE 'statically linked|static-pie linked' && [ "$(id -u)" = 0 ]; then
        check "in an empty root folder, read-only, with any user and 256 MiB" \
            bare "127.0.0.1:${ports[0]}/small" "127.0.0.1:${ports[1]}/bare"
        check "the copy is complete" in_sync "127.0.0.1:${ports[0]}/small" "127.0.0.1:${ports[1]}/bare"
    else
        echo "SKIPPED: not a static binary, or not root: nothing was tried in an empty root folder" >&2
    fi
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
