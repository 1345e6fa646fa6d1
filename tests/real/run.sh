#!/bin/bash
# run.sh BINARY: copies images between real registries (docker-registry of Debian, on free ports of 127.0.0.1) and lets
# skopeo judge the copies. Prints a line for each check and `N passed, M failed` at the end.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: run.sh BINARY}")

for tool in docker-registry skopeo python3; do
    if ! command -v $tool >/dev/null; then
        echo "SKIPPED: no $tool here, nothing was tried against real registries" >&2
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
done

# shellcheck source=lib.sh
. "$here/lib.sh"

# same_bytes FROM TO [SKOPEO OPTION...]: equal manifests by skopeo's reading of both.
same_bytes() {
    local from=$1 to=$2
    shift 2
    skopeo inspect --raw --tls-verify=false "$@" "$from" >"$work/from" &&
        skopeo inspect --raw --tls-verify=false "$@" "$to" >"$work/to" &&
        cmp "$work/from" "$work/to"
}

# whole IMAGE [SKOPEO OPTION...]: an image of which skopeo finds, reads and verifies every part.
whole() {
    local image=$1
    shift
    rm -rf "$work/whole"
    skopeo copy -q --all --src-tls-verify=false "$@" "$image" "dir:$work/whole"
}

# since NAME LINE: the requests that registry NAME has answered after a line of its log.
since() {
    tail -n "+$(($2 + 1))" "$work/$1.log" | grep -o '"[A-Z]* /v2/[^ ]* HTTP/1.1" [0-9]*' || true
}

lines() {
    wc -l <"$work/$1.log"
}

# quiet SOURCE-LINE TARGET-LINE: since then nothing was written at the target and no content read at the source.
quiet() {
    since source "$1" | grep -E '^"GET /v2/.*/(manifests|blobs)/' && return 1
    since target "$2" | grep -E '^"(POST|PUT|PATCH|DELETE) ' && return 1
    [ "$(since target "$2" | wc -l)" -ge 300 ]
}

free_ports 6
source=127.0.0.1:${ports[0]}
target=127.0.0.1:${ports[1]}
start source "${ports[0]}"
start target "${ports[1]}"
python3 "$here/registry.py" push "$source" >"$work/images"

# 1. Every kind of image from one registry to the other: to one target, to two, and all tags of a repository.
rules=""
while read -r kind name tag; do
    [ "$kind" = many ] || rules+="    \"$source/$name:$tag\": [\"$target/$name:$tag\", \"$target/again/$name\"],"$'\n'
done <"$work/images"
cat >"$work/sync.json" <<CONFIG
{
  // No entry for the target: plain http is tried on this machine as docker does.
  "auth": {"$source": {"insecure": true}},
  "images": {
$rules    "$source/many/app": "$target/many/app"
  }
}
CONFIG
sync first --config "$work/sync.json" --records "$work/records"
check "a first run copies everything" ended first 0 0 0
check "310 images are the same on both sides" python3 "$here/registry.py" compare "$source" "$target" <"$work/images"
while read -r kind name tag; do
    [ "$kind" != many ] || continue
    if [ "$kind" != schema1 ]; then
        check "$name has the same bytes" same_bytes "docker://$source/$name:$tag" "docker://$target/$name:$tag"
        check "$name has them in its second target" same_bytes "docker://$source/$name:$tag" "docker://$target/again/$name:$tag"
    fi
    case $kind in
    image | schema1) check "$name is whole" whole "docker://$target/again/$name:$tag" ;;
    esac
done <"$work/images"
check "one of many is whole" whole "docker://$target/many/app:v299"
for digest in $(skopeo inspect --raw --tls-verify=false "docker://$source/lib/nested:1" | grep -o 'sha256:[0-9a-f]*'); do
    check "a child of the nested index is there" skopeo inspect --raw --tls-verify=false "docker://$target/lib/nested@$digest"
done

# 2. Nothing has changed: nothing is read or written, with records and without.
for records in records none; do
    marks=("$(lines source)" "$(lines target)")
    sync again --config "$work/sync.json" --records "$work/$records"
    check "a second run finds everything in sync ($records)" ended again 0 0 0
    check "it moves nothing ($records)" quiet "${marks[@]}"
done

# 3. A moved tag is followed.
skopeo copy -q --src-tls-verify=false --dest-tls-verify=false \
    "docker://$source/lib/docker:1" "docker://$source/many/app:v0"
sync moved --config "$work/sync.json" --records "$work/records"
check "a run after a tag moved" ended moved 0 0 0
check "the moved tag is followed" same_bytes "docker://$source/many/app:v0" "docker://$target/many/app:v0"

# 4. Layouts: what is copied out is read by skopeo, and what README.md shows works.
sync out --records "$work/records" "$source/lib/index:1" "oci:$work/layout:index"
check "a copy into a layout" ended out 0 0 0
check "the layout has the same bytes" same_bytes "docker://$source/lib/index:1" "oci:$work/layout:index"
check "the layout is whole" whole "oci:$work/layout:index"
example=$(bash "$root/.ci/readme" registry)
example=${example/localhost:5000/localhost:${ports[1]}}
read -ra arguments <<<"${example#*-- }"
sync example "${arguments[@]}"
check "README's example with a registry" ended example 0 0 0
for tag in 1.0 2.0; do
    check "tag $tag arrived" same_bytes "oci:$root/fixtures/layout:$tag" "docker://$target/demo/app:$tag"
done

# 5. What is about an image goes with it: neither registry lists it, so that tags do.
python3 "$here/registry.py" signed "$source" lib/signed >"$work/signed"
referrers=(--referrers --records "$work/records" "$source/lib/signed:v1" "$target/lib/signed:v1")
sync signed "${referrers[@]}"
check "a copy with referrers" ended signed 0 0 0
check "the image has the same bytes" same_bytes "docker://$source/lib/signed:v1" "docker://$target/lib/signed:v1"
# listed TAG DIGEST: the tag at the target lists the digest.
listed() { skopeo inspect --raw --tls-verify=false "docker://$target/lib/signed:$1" | grep -F "$2"; }
while read -r digest tag; do
    check "an artifact has the same bytes" same_bytes "docker://$source/lib/signed@$digest" "docker://$target/lib/signed@$digest"
    check "it is listed by its tag" listed "$tag" "$digest"
done <"$work/signed"
signature=lib/signed:$(tail -n 1 "$work/signed" | cut -d ' ' -f 2).sig
check "cosign's signature has the same bytes" same_bytes "docker://$source/$signature" "docker://$target/$signature"
mark=$(lines target)
sync signed-again "${referrers[@]}"
check "a second run with referrers" ended signed-again 0 0 0
# unwritten: nothing was written at the target since then, and something was asked.
unwritten() { since target "$mark" | grep GET && ! since target "$mark" | grep -E '^"(POST|PUT|PATCH|DELETE) '; }
check "it writes nothing" unwritten
# Somebody else has signed at the target, as if it were before the first run.
skopeo copy -q --src-tls-verify=false --dest-tls-verify=false "docker://$source/lib/artifact:1" "docker://$target/$signature"
sync signed-both "${referrers[@]}"
check "a run beside a signature of the target's own" ended signed-both 0 0 0
# holds_layers_of IMAGE: the signatures at the target have the layers of that image.
holds_layers_of() {
    for layer in $(skopeo inspect --raw --tls-verify=false "docker://$source/$1" | tr -d ' \n' | sed 's/.*"layers"//' | grep -o 'sha256:[0-9a-f]*'); do
        skopeo inspect --raw --tls-verify=false "docker://$target/$signature" | grep -F "$layer" || return 1
    done
}
check "it stays" holds_layers_of lib/artifact:1
check "the source's is there" holds_layers_of "$signature"
check "both are whole" whole "docker://$target/$signature"

# 6. Passwords on both sides, right and wrong.
if ! command -v htpasswd >/dev/null; then
    echo "SKIPPED: no htpasswd here, nothing was tried with passwords" >&2
else
    password='pa:ss "word" 1'
    for side in locked-source locked-target; do
        htpasswd -Bbn "$side" "$password" >"$work/$side.htpasswd"
    done
    access() { echo "auth: {htpasswd: {realm: test, path: $work/$1.htpasswd}}"; }
    from=127.0.0.1:${ports[2]}
    to=127.0.0.1:${ports[3]}
    start locked-source "${ports[2]}" "$(access locked-source)"
    start locked-target "${ports[3]}" "$(access locked-target)"
    skopeo copy -q --all --dest-tls-verify=false --dest-creds "locked-source:$password" \
        "oci:$root/fixtures/layout:2.0" "docker://$from/app:2.0"
    # login NAME SOURCE-PASSWORD TARGET-PASSWORD: a run with these.
    login() {
        cat >"$work/login.json" <<CONFIG
{
  "auth": {
    "$from": {"username": "locked-source", "password": "${2//\"/\\\"}", "insecure": true},
    "$to": {"username": "locked-target", "password": "${3//\"/\\\"}", "insecure": true}
  },
  "images": {"$from/app:2.0": "$to/team/app"}
}
CONFIG
        sync "$1" --config "$work/login.json" --records "$work/login-records" --retries 1
    }
    # silent NAME: neither the right password nor the wrong one was printed.
    silent() { ! grep -e "pa:ss" -e "hunter2" "$work/$1.out" "$work/$1.err"; }
    login wrong-source hunter2 "$password"
    check "a wrong password at the source" ended wrong-source 1 0 1
    login wrong-target "$password" hunter2
    check "a wrong password at the target" ended wrong-target 1 1 0
    login right "$password" "$password"
    check "the right passwords" ended right 0 0 0
    check "the copy is whole" whole "docker://$to/team/app:2.0" --src-creds "locked-target:$password"
    for name in wrong-source wrong-target right; do
        check "no password is printed ($name)" silent $name
    done
fi

# 7. TLS and passwords: a private authority and a client certificate at the source, a certificate that is its own
# authority at the target, keys as PKCS#1 and SEC1.
if ! command -v htpasswd >/dev/null || ! command -v openssl >/dev/null; then
    echo "SKIPPED: no htpasswd or no openssl here, nothing was tried over TLS" >&2
else
    mkdir "$work/tls"
    address="subjectAltName=IP:127.0.0.1"
    (
        cd "$work/tls"
        # own NAME OPTION...: a certificate that is its own authority. signed NAME: one that ca.crt has signed.
        own() { openssl req -x509 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" -out "$1.crt" "${@:2}"; }
        signed() {
            openssl genrsa -traditional -out "$1.key" 2048
            openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
            openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                -extfile <(echo "$address") -out "$1.cert"
        }
        own ca -newkey rsa:2048
        signed server
        signed client
        own target -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext "$address"
        openssl ec -in target.key -out sec1.key
        # As skopeo reads folders of certs.d.
        mkdir shown known
        cp ca.crt client.cert client.key shown/
        cp target.crt known/
    ) >"$work/openssl" 2>&1 || cat "$work/openssl"
    from=127.0.0.1:${ports[4]}
    to=127.0.0.1:${ports[5]}
    htpasswd -Bbn robot "word 1" >"$work/robot.htpasswd"
    files=$work/tls
    TLS="certificate: $files/server.cert, key: $files/server.key, clientcas: [$files/ca.crt]" \
        start tls-source "${ports[4]}" "$(access robot)"
    TLS="certificate: $files/target.crt, key: $files/sec1.key" start tls-target "${ports[5]}" "$(access robot)"
    skopeo copy -q --all --dest-cert-dir "$files/shown" --dest-creds "robot:word 1" \
        "oci:$root/fixtures/layout:2.0" "docker://$from/app:2.0"
    # over NAME FIELDS-OF-SOURCE FIELDS-OF-TARGET: a run with these beside the login. Paths begin at the file.
    over() {
        local login='"username": "robot", "password": "word 1"'
        cat >"$files/$1.json" <<CONFIG
{
  "auth": {"$from": {$login$2}, "$to": {$login$3}},
  "images": {"$from/app:2.0": "$to/team/app"}
}
CONFIG
        sync "$1" --config "$files/$1.json" --records "$work/tls-records" --retries 0
    }
    shown=', "ca": "ca.crt", "cert": "client.cert", "key": "client.key"'
    over unknown "" ', "ca": "target.crt"'
    check "an authority that nobody named" ended unknown 1 0 1
    check "it is told" grep -q 'the certificate is not accepted (name its authority' "$work/unknown.err"
    over nameless ', "ca": "ca.crt"' ', "ca": "target.crt"'
    check "a client certificate that is lacking" ended nameless 1 0 1
    check "it is told too" grep -q 'the registry wants a client certificate' "$work/nameless.err"
    over good "$shown" ', "ca": "target.crt"'
    check "TLS with what each side wants" ended good 0 0 0
    check "the copy over TLS is whole" skopeo copy -q --all --src-cert-dir "$files/known" --src-creds "robot:word 1" \
        "docker://$to/team/app:2.0" "dir:$work/over"
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
