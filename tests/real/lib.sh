# What run.sh and endure.sh share: registries that are started and ended here, runs of the program, and checks that are
# counted. The caller has set `root` and `binary`.
# shellcheck shell=bash

work=$(mktemp -d)
registries=()
passed=0
failed=0

cleanup() {
    for pid in "${registries[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$work"
}
trap cleanup EXIT

# check WHAT COMMAND...: runs a command and counts how it ends.
check() {
    local what=$1
    shift
    if "$@" >"$work/check" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $what"
    else
        failed=$((failed + 1))
        echo "FAIL  $what"
        tail -n 20 "$work/check" | sed 's/^/      | /'
    fi
}

# start NAME PORT [LINES OF CONFIG]: a registry with its access log in $work/NAME.log. PROGRAM: another registry than
# Debian's. TLS: the fields of its `tls`.
start() {
    cat >"$work/$1.yml" <<CONFIG
version: 0.1
log: {level: warn, accesslog: {disabled: false}}
storage:
  filesystem: {rootdirectory: $work/$1}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:$2", secret: test${TLS:+, tls: {$TLS\}}}
${PROGRAM:+#}compatibility: {schema1: {enabled: true}}
validation: {manifests: {urls: {allow: ['^https://']}}}
${3:-}
CONFIG
    OTEL_TRACES_EXPORTER=none "${PROGRAM:-docker-registry}" serve "$work/$1.yml" >>"$work/$1.log" 2>&1 &
    registries+=($!)
    answers "$2" && return
    echo "registry $1 did not start:" >&2
    cat "$work/$1.log" >&2
    return 1
}

# answers PORT: whether the program that was just started in the background listens there before long.
answers() {
    for _ in $(seq 100); do
        kill -0 $! 2>/dev/null || break
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    return 1
}

# sync NAME ARGUMENT...: runs the program; its output and status go to $work/NAME.{out,err,status}.
sync() {
    local name=$1 status=0
    shift
    (cd "$root" && timeout 300 "$binary" "$@") >"$work/$name.out" 2>"$work/$name.err" || status=$?
    echo "$status" >"$work/$name.status"
}

# ended NAME STATUS FAILED-TASKS FAILED-GENERATIONS: how a run must have ended, in words that scripts search for.
ended() {
    cat "$work/$1.err" "$work/$1.out"
    echo "status $(cat "$work/$1.status")"
    [ "$(cat "$work/$1.status")" = "$2" ] || return 1
    [ "$(tail -n 1 "$work/$1.out")" = "Finished, $3 sync tasks failed, $4 tasks generate failed" ] || return 1
    [ "$2" = 0 ] || grep -qx "failed tasks exist" "$work/$1.out"
}

# free_ports N: that many ports of 127.0.0.1 that nobody listens at, into `ports`. Each script has a block of its own, below
# the ports that systems give to outgoing connections: so none is taken by a script that runs beside it before it is used.
free_ports() {
    mapfile -t ports < <(python3 - "$1" $((10000 + $$ % 1000 * 20)) <<'PYTHON'
import socket, sys
wanted, first = map(int, sys.argv[1:])
for port in range(first, first + 20):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    if wanted:
        wanted -= 1
        print(port)
PYTHON
)
}
