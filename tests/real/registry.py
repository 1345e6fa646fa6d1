#!/usr/bin/env python3
"""The test images of run.sh, and what must be true of their copies.

usage: registry.py push HOST [USER:PASSWORD]     puts every image, byte for byte; prints one line an image: KIND NAME TAG
       registry.py compare FROM TO < IMAGES      says which of these images are not the same in both registries
       registry.py series HOST NAME N SIZE       puts N images of one layer of SIZE bytes each, tagged v0, v1 and so on
       registry.py signed HOST NAME              puts an index v1 of one image with an artifact about each and a signature
                                                 of cosign's; prints DIGEST and TAG of each artifact and of its list
       registry.py same FROM TO                  says what is missing or another one of HOST/NAME at HOST/NAME

KIND says what a judge can do with it: "image" (anything), "nested" (an index of indexes), "foreign" (a layer that no
registry holds), "schema1" (signed anew at each GET: only its digest is stable), "many" (one of three hundred).
"""
import base64
import hashlib
import http.client
import json
import random
import sys

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
EMPTY = "application/vnd.oci.empty.v1+json"
SCHEMA1 = DOCKER + "distribution.manifest.v1+prettyjws"
TYPES = {
    "oci": (OCI + "manifest.v1+json", OCI + "config.v1+json", OCI + "layer.v1.tar", OCI + "index.v1+json"),
    "docker": (
        DOCKER + "distribution.manifest.v2+json",
        DOCKER + "container.image.v1+json",
        DOCKER + "image.rootfs.diff.tar.gzip",
        DOCKER + "distribution.manifest.list.v2+json",
    ),
}
ACCEPT = ", ".join([kind for types in TYPES.values() for kind in (types[0], types[3])] + [SCHEMA1])


class Registry:
    """One connection to one registry."""

    def __init__(self, host, credentials=None):
        self.connection = http.client.HTTPConnection(host, timeout=60)
        self.headers = {}
        if credentials:
            encoded = base64.b64encode(credentials.encode()).decode()
            self.headers["Authorization"] = "Basic " + encoded

    def request(self, method, path, body=None, headers=None, status=200):
        self.connection.request(method, path, body, self.headers | (headers or {}))
        response = self.connection.getresponse()
        content = response.read()
        if response.status != status:
            raise RuntimeError(f"{method} {path}: {response.status} {content[:500]!r}")
        return response.headers, content

    def manifest(self, name, reference, accept=ACCEPT):
        """The bytes of a manifest, and the digest that the registry gives it."""
        path = f"/v2/{name}/manifests/{reference}"
        headers, content = self.request("GET", path, headers={"Accept": accept})
        return content, headers["Docker-Content-Digest"]

    def tags(self, name):
        return json.loads(self.request("GET", f"/v2/{name}/tags/list")[1])["tags"]


class Repository:
    """Makes images in one repository. Each method puts something and gives its descriptor."""

    def __init__(self, registry, name, format="oci"):
        self.registry = registry
        self.name = name
        self.types = TYPES[format]

    def blob(self, media_type, *pieces):
        """Pieces are sent one after another, so a blob may be larger than memory should be."""
        digest = hashlib.sha256()
        size = 0
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
        digest = "sha256:" + digest.hexdigest()
        headers, _ = self.registry.request("POST", f"/v2/{self.name}/blobs/uploads/", status=202)
        location = headers["Location"]
        location = location[location.index("/v2/"):]
        path = location + ("&" if "?" in location else "?") + "digest=" + digest
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self.registry.request("PUT", path, iter(pieces), headers, 201)
        return {"mediaType": media_type, "digest": digest, "size": size}

    def layer(self, seed, size=1000):
        return self.blob(self.types[2], random.Random(seed).randbytes(size))

    def manifest(self, document, tag=None):
        """Indented on purpose: whoever writes a manifest anew changes its digest."""
        content = json.dumps(document, indent=3).encode()
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        path = f"/v2/{self.name}/manifests/{tag or digest}"
        self.registry.request("PUT", path, content, {"Content-Type": document["mediaType"]}, 201)
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(content)}

    def image(self, layers, tag=None, config=None, **more):
        if config is None:
            config = self.blob(self.types[1], json.dumps({
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
                "history": [{"created_by": self.name} for _ in layers],
            }).encode())
        document = {"schemaVersion": 2, "mediaType": self.types[0], "config": config, "layers": layers}
        return self.manifest(document | more, tag)

    def index(self, children, tag=None):
        return self.manifest({"schemaVersion": 2, "mediaType": self.types[3], "manifests": children}, tag)


def platform(descriptor, architecture):
    return descriptor | {"platform": {"architecture": architecture, "os": "linux"}}


def push(registry):
    """Puts every image and yields KIND, name and tag of each."""

    def repository(name, format="oci"):
        return Repository(registry, "lib/" + name, format)

    r = repository("single")
    # Over 16 MiB, so that it goes up in a PATCH.
    r.image([r.layer("base", 20 << 20), r.layer("single")], "1")
    yield "image", r.name, "1"

    r = repository("docker", "docker")
    r.image([r.layer("docker")], "1")
    yield "image", r.name, "1"

    for name, format in [("list", "docker"), ("index", "oci")]:
        r = repository(name, format)
        children = [platform(r.image([r.layer(name + a)]), a) for a in ["amd64", "arm64", "s390x"]]
        r.index(children, "1")
        yield "image", r.name, "1"

    r = repository("bare")
    r.index([r.image([r.layer(f"bare{number}")]) for number in range(2)], "1")
    yield "image", r.name, "1"

    r = repository("nested")
    inner = r.index([platform(r.image([r.layer("nested")]), "amd64")])
    r.index([inner, platform(r.image([r.layer("outer")]), "arm64")], "1")
    yield "nested", r.name, "1"

    r = repository("artifact")
    content = r.blob("application/x-thing", b"anything at all")
    annotations = {"org.example.empty": "", "org.example.word": "naïve"}
    r.image([content], "1", r.blob(EMPTY, b"{}"), artifactType="application/x-thing", annotations=annotations)
    yield "image", r.name, "1"

    r = repository("empty-layer")
    r.image([r.blob(r.types[2], b""), r.layer("empty")], "1")
    yield "image", r.name, "1"

    r = repository("foreign", "docker")
    foreign = {
        "mediaType": DOCKER + "image.rootfs.foreign.diff.tar.gzip",
        "digest": "sha256:" + "0" * 64,
        "size": 1234,
        "urls": ["https://example.com/layer"],
    }
    r.image([foreign, r.layer("foreign")], "1")
    yield "foreign", r.name, "1"

    # The registry signs one itself when a client that knows nothing newer asks for a tag.
    r = repository("schema1", "docker")
    r.image([r.layer("schema1")], "schema2")
    content, _ = registry.manifest(r.name, "schema2", SCHEMA1)
    registry.request("PUT", f"/v2/{r.name}/manifests/1", content, {"Content-Type": SCHEMA1}, 201)
    yield "schema1", r.name, "1"

    r = Repository(registry, "many/app")
    base = r.layer("base of many")
    for number in range(300):
        tag = f"v{number}"
        r.image([base, r.layer(tag, 100)], tag)
        yield "many", r.name, tag


def compare(source, target, images):
    """Yields what differs. Children are asked for by digest, which their bytes must have."""
    for kind, name, tag in images:
        ours, digest = source.manifest(name, tag)
        try:
            theirs, copied = target.manifest(name, tag)
            if copied != digest or (theirs != ours and kind != "schema1"):
                yield f"{name}:{tag} is another manifest"
            children = digests(ours)
            while children:
                child = children.pop()
                content, _ = target.manifest(name, child)
                if "sha256:" + hashlib.sha256(content).hexdigest() != child:
                    yield f"{name}@{child} is another manifest"
                children += digests(content)
        except RuntimeError as error:
            yield f"{name}:{tag}: {error}"


def digests(index):
    return [child["digest"] for child in json.loads(index).get("manifests", [])]


def series(host, name, count, size):
    """Puts images of one layer each, which goes in pieces: it may be larger than memory should be."""
    r = Repository(Registry(host), name)
    for number in range(int(count)):
        piece = random.Random(f"{name}{number}").randbytes(1 << 20)
        whole, rest = divmod(int(size), len(piece))
        layer = r.blob(r.types[2], *[piece] * whole, piece[:rest])
        r.image([layer], f"v{number}")


def signed(host, name):
    """Puts an index with what is about it and about its child, and yields the digest and the list of each."""
    r = Repository(Registry(host), name)
    child = r.image([r.layer("signed")])
    index = r.index([platform(child, "amd64")], "v1")
    for subject in (index, child):
        content = r.blob("application/x-signature", subject["digest"].encode())
        kind = {"artifactType": "application/x-signature"}
        about = r.image([content], None, r.blob(EMPTY, b"{}"), subject=subject, **kind)
        tag = subject["digest"].replace(":", "-")
        r.index([about | kind], tag)
        yield about["digest"], tag
    payload = r.blob("application/vnd.dev.cosign.simplesigning.v1+json", b"{}")
    r.image([payload], tag + ".sig")


def same(source, target):
    """Yields which tags, blobs and manifests of one repository are not in another one."""
    (ours, name), (theirs, copy) = [(Registry(host), path) for host, path in (p.split("/", 1) for p in (source, target))]
    for tag in ours.tags(name):
        content, digest = ours.manifest(name, tag)
        if theirs.manifest(copy, tag) != (content, digest):
            yield f"{tag} is another manifest"
        manifest = json.loads(content)
        for blob in [manifest["config"], *manifest["layers"]]:
            theirs.request("HEAD", f"/v2/{copy}/blobs/{blob['digest']}", status=200)


def main(command, *arguments):
    if command == "series":
        series(*arguments)
        return 0
    if command == "signed":
        for artifact in signed(*arguments):
            print(*artifact)
        return 0
    if command == "same":
        differences = list(same(*arguments))
        print(*differences, sep="\n")
        return int(bool(differences))
    if command == "push":
        host, *credentials = arguments
        for image in push(Registry(host, *credentials)):
            print(*image)
        return 0
    source, target = arguments
    images = [line.split() for line in sys.stdin]
    differences = list(compare(Registry(source), Registry(target), images))
    for difference in differences:
        print(difference)
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
