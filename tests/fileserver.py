"""A file server on loopback for tests of downloads."""

from __future__ import annotations

import http.server
import threading


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `contents` by path and records the paths that were requested.

    status: of every response. cuts: after how many bytes the next responses end. may_respond: if
    cleared, the server is silent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.contents: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts: list[int] = []
        self.status = 200
        self.may_respond = threading.Event()
        self.may_respond.set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        self.may_respond.wait(60)
        content = self.contents.get(handler.path)
        if content is None or self.status != 200:
            handler.send_error(404 if content is None else self.status)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: self.cuts.pop(0)] if self.cuts else content)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.respond(self)

    def log_message(self, *_):
        pass
