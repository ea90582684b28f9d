# SPDX-License-Identifier: Apache-2.0
"""A local web server for a folder of videos; answers range requests, which seeking needs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

LOOPBACK = "127.0.0.1"
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_CHUNK = 1 << 16


class RangeRequestHandler(SimpleHTTPRequestHandler):
    """Serves files of one folder, whole or one byte range (RFC 9110, section 14)."""

    protocol_version = "HTTP/1.1"

    def send_head(self) -> BinaryIO | None:
        """Answer with the range asked for, else as the base class does."""
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        self._remaining: int | None = None
        if asked is None or not path.is_file():
            return super().send_head()
        file = path.open("rb")
        size = os.fstat(file.fileno()).st_size
        span = _byte_span(asked, size)
        if span is None:
            file.close()
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        first, last = span
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        file.seek(first)
        self._remaining = last - first + 1
        return file

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """Send the file, or as much of it as the range asks for."""
        if self._remaining is None:
            super().copyfile(source, outputfile)
            return
        while self._remaining > 0:
            chunk = source.read(min(_CHUNK, self._remaining))
            if not chunk:
                return
            outputfile.write(chunk)
            self._remaining -= len(chunk)

    def end_headers(self) -> None:
        """Say that ranges are understood."""
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: a video makes hundreds of requests."""


def _byte_span(asked: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header, or None when it cannot be satisfied."""
    match = _RANGE.match(asked.strip())
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    last = min(last, size - 1)
    return (first, last) if 0 <= first <= last else None


def make_server(
    folder: str | Path, port: int = 0, host: str = LOOPBACK
) -> ThreadingHTTPServer:
    """A server for `folder`; port 0 takes a free one. Call `serve_forever` and `server_close`.

    Raises NotADirectoryError when `folder` is none, OSError when the port is taken.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    handler: Callable[..., RangeRequestHandler] = partial(
        RangeRequestHandler, directory=str(root.resolve()))
    return ThreadingHTTPServer((host, port), handler)
