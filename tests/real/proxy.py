"""A proxy before a registry that notes every request, and a judge of what runs that were killed have sent through it.

proxy.py serve PORT UPSTREAM-PORT LOG   notes `> METHOD PATH` when a request begins, `< METHOD PATH STATUS BYTES` when it
                                        has ended, with the bytes of its body that came
proxy.py idle LOG                       whether all requests that began have ended
proxy.py judge LOG CALM KILLED KILLS WORKERS
                                        of all repositories that begin with KILLED: no blob was sent again once it was
                                        complete, and no more was sent than by the calm run to CALM and what each kill
                                        can have cut off: one blob for each worker
"""

import http.client
import http.server
import re
import sys
import threading


def serve(port, upstream, log_path):
    log = open(log_path, "a", buffering=1)
    lock = threading.Lock()

    def note(line):
        with lock:
            log.write(line + "\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Or small answers wait for acknowledgements.
        disable_nagle_algorithm = True

        def handle_expect_100(self):
            self.send_response_only(100)
            self.end_headers()
            return True

        def forward(self):
            note(f"> {self.command} {self.path}")
            received = 0

            def body():
                nonlocal received
                left = int(self.headers.get("Content-Length", 0))
                while left:
                    part = self.rfile.read1(min(left, 1 << 16))
                    if not part:
                        raise ConnectionError("the client is gone")
                    received += len(part)
                    left -= len(part)
                    yield part

            status = 0
            connection = http.client.HTTPConnection("127.0.0.1", upstream)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                has_body = "Content-Length" in self.headers
                connection.request(self.command, self.path, body() if has_body else None, headers)
                answer = connection.getresponse()
                content = answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                self.close_connection = True
            finally:
                connection.close()
                note(f"< {self.command} {self.path} {status} {received}")
            if not status:
                return
            self.send_response_only(status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_):
            pass  # a client that was killed

    Server(("127.0.0.1", port), Handler).serve_forever()


def idle(log_path):
    lines = open(log_path).read().splitlines()
    return sum(line[0] == ">" for line in lines) == sum(line[0] == "<" for line in lines)


def judge(log_path, calm, killed, kills, workers):
    sent, again, largest, complete = {}, [], 0, set()
    for line in open(log_path):
        mark, method, path, *rest = line.split()
        upload = re.match(r"/v2/([^/]+)/blobs/uploads/", path)
        if not upload or method not in ("POST", "PATCH", "PUT"):
            continue
        repository, digest = upload[1], re.search(r"[?&]digest=([^&]+)", path)
        blob = (repository, digest and digest[1])
        if mark == ">" and method == "PUT" and blob in complete:
            again.append(blob)
        if mark == "<":
            status, size = map(int, rest)
            sent[repository] = sent.get(repository, 0) + size
            largest = max(largest, size)
            if method == "PUT" and status == 201:
                complete.add(blob)
    limit = sent[calm] + kills * workers * largest
    found = {name: size for name, size in sent.items() if name.startswith(killed)}
    print(f"{len(found)} copies, {sum(found.values())} bytes sent, {sent[calm]} by one in peace")
    for blob in again:
        print("sent again:", *blob)
    for name, size in found.items():
        if size > limit:
            print(f"{name}: {size} bytes were sent, more than {limit}")
    return bool(found) and not again and max(found.values()) <= limit


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "serve":
        serve(int(arguments[0]), int(arguments[1]), arguments[2])
    elif command == "idle":
        sys.exit(not idle(arguments[0]))
    else:
        log, calm, killed, kills, workers = arguments
        sys.exit(not judge(log, calm, killed, int(kills), int(workers)))
