"""A file server on loopback for tests of downloads."""

from __future__ import annotations

import hashlib
import http.server
import threading


class FileServer:
    """Serves `contents` by path and records the paths that were requested.

    status: of every response. cuts: after how many bytes the next responses end.
    """

    def __init__(self):
        self.contents: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts: list[int] = []
        self.status = 200
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.respond(self)

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

    def respond(self, handler):
        self.requests.append(handler.path)
        content = self.contents.get(handler.path)
        if content is None or self.status != 200:
            handler.send_error(404 if content is None else self.status)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if self.cuts:
            content = content[: self.cuts.pop(0)]
        handler.wfile.write(content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
