"""A file server on loopback for tests of downloads."""

from __future__ import annotations

import http.server
import re
import threading


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `contents` by path, or redirects to the path that is there instead of the bytes.

    requests: the paths that were requested. num_bytes_sent: of bodies. status: of every response.
    cuts: after how many bytes the next responses end. may_respond: if cleared, the server is
    silent. supports_ranges: if not, it sends the whole file.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.contents: dict[str, bytes | str] = {}
        self.requests: list[str] = []
        self.cuts: list[int] = []
        self.status = 200
        self.supports_ranges = True
        self.num_bytes_sent = 0
        self.counting = threading.Lock()
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
        if isinstance(content, str):
            handler.send_response(302)
            handler.send_header("Location", content)
            handler.end_headers()
            return
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if requested and self.supports_ranges:
            first, last = (int(number) for number in requested.groups())
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        body = content[: self.cuts.pop(0)] if self.cuts else content
        with self.counting:
            self.num_bytes_sent += len(body)
        handler.wfile.write(body)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.respond(self)

    def log_message(self, *_):
        pass
