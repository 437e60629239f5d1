"""A server of one page that changes: for this machine alone, and only to be read."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Protocol

from lr_env.errors import UserError

ADDRESS = "127.0.0.1"

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Source(Protocol):
    """Where a page comes from; its functions are called by several threads."""

    def page(self) -> tuple[str, str]:
        """The version, and the text of the whole page."""
        ...

    def content(self) -> tuple[str, str]:
        """The version, and the text of the part that changes."""
        ...


class PageServer(ThreadingHTTPServer):
    """A server of "/", the page, and "/content", the part of it that changes. Nothing else is there.

    It answers only requests to this machine under its own name: a page of another site, whose name was made to point
    here, gets nothing.

    Args:
        source: of the page.
        port: where it listens; 0 for a free one.

    Raises:
        UserError: the port is in use, or may not be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, source: Source, port: int) -> None:
        if not 0 <= port <= 65535:
            raise UserError(f"port {port}: give a number from 1024 to 65535 with --port")
        self.source = source
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is in use: choose another with --port") from None
            if error.errno == errno.EACCES:
                raise UserError(f"port {port} may not be used: choose one from 1024 up with --port") from None
            raise

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: PageServer  # type: ignore[assignment] (of the base class, which has any server)
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def __getattr__(self, name: str) -> Any:
        """Refuse all other methods."""
        if name.startswith("do_"):
            return lambda: self._send(405, "only GET and HEAD", more={"Allow": "GET, HEAD"})
        raise AttributeError(name)

    def _answer(self, *, body: bool) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self._send(403, f"only {self.server.url}", body=body)
            return
        read = {"/": self.server.source.page, "/content": self.server.source.content}.get(self.path)
        if read is None:
            self._send(404, "there is only the page", body=body)
            return
        version, text = read()
        if self.headers.get("If-None-Match") == f'"{version}"':
            self._send(304, "", more={"ETag": f'"{version}"'}, body=False)
            return
        self._send(200, text, "text/html", {"ETag": f'"{version}"'}, body=body)

    def _send(
        self,
        code: int,
        text: str,
        kind: str = "text/plain",
        more: Mapping[str, str] = MappingProxyType({}),
        *,
        body: bool = True,
    ) -> None:
        data = text.encode(errors="backslashreplace")
        self.send_response(code)
        for name, value in {**_HEADERS, **more}.items():
            self.send_header(name, value)
        if code != 304:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        if code == 405:  # its body, which is not read, would pass for the next request
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
