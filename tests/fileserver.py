"""A file server on this machine that can cut, refuse and ignore ranges, for tests of downloads."""

import hashlib
import http.server
import threading


class FileServer:
    """A file server on loopback: contents by path; counts the bytes it sends and the requests."""

    def __init__(self):
        self.contents, self.requests, self.num_sent = {}, [], 0
        self.cuts = []  # after how many bytes the next answers end
        self.has_ranges, self.status = True, 200
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler):
        self.requests.append((handler.path, handler.headers.get("Range")))
        content = self.contents.get(handler.path)
        if content is None or self.status != 200:
            return handler.send_error(404 if content is None else self.status)
        start = 0
        if self.has_ranges and handler.headers.get("Range"):
            start = int(handler.headers["Range"][len("bytes=") : -1])
            if start >= len(content):
                return handler.send_error(416)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.cuts:
            body = body[: self.cuts.pop(0)]
        handler.wfile.write(body)
        self.num_sent += len(body)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def left_in(folder):
    """The names of the files there, but for downloads' locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
