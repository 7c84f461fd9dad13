"""A real HTTP server on loopback whose files misbehave as they were told to, one fault a request, then behave."""

import gzip
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    stall_after: int | None = None  # bytes of the body, then silence
    ignores_range: bool = False
    ignores_if_range: bool = False
    length_lie: int = 0  # added to Content-Length
    range_shift: int = 0  # Content-Range begins so many bytes too late
    body: bytes | None = None  # another file
    etag: str | None = None  # another name
    drops_validators: bool = False
    is_packed: bool = False
    is_chunked: bool = False  # without Content-Length


@dataclass
class File:
    """What stands at a path."""

    body: bytes
    kind: str = "application/octet-stream"
    etag: str | None = '"1"'
    last_modified: str | None = None
    faults: list[Fault] = field(default_factory=list)  # one a request, in this order
    always: Fault = Fault()  # after these
    asked: list[dict[str, str]] = field(default_factory=list)  # headers of all requests, names in small letters
    served: list[tuple[int, int]] = field(default_factory=list)  # status and bytes of body of all answers


class Site(http.server.ThreadingHTTPServer):
    """The server; `site.files[path] = File(...)`, `site.url(path)`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def put(self, path: str, body: bytes, **more: Any) -> str:
        self.files["/" + path] = File(body, **more)
        return self.url(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what many tests are about."""


@contextmanager
def serving() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.closing.set()
            site.shutdown()
            thread.join()


def noise(n_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = self.server.files.get(self.path.partition("?")[0])
        if file is None:
            self._send(404, {}, b"")
            return
        file.asked.append({name.lower(): value for name, value in self.headers.items()})
        fault = file.faults.pop(0) if file.faults else file.always
        if fault.status:
            file.served.append((fault.status, 0))
            self._send(fault.status, fault.headers, b"")
            return
        body = file.body if fault.body is None else fault.body
        etag = fault.etag or file.etag
        named: dict[str, str] = {}
        if not fault.drops_validators:
            named = {"ETag": etag or "", "Last-Modified": file.last_modified or ""}
        status, start, end = self._part(body, fault, [etag, file.last_modified])
        headers = {"Content-Type": file.kind, "Accept-Ranges": "bytes"} | {k: v for k, v in named.items() if v}
        if status == 416:
            headers["Content-Range"] = f"bytes */{len(body)}"
        if status == 206:
            headers["Content-Range"] = f"bytes {start + fault.range_shift}-{end - 1}/{len(body)}"
        data = body[start:end]
        if fault.is_packed:
            data = gzip.compress(data)
            headers["Content-Encoding"] = "gzip"
        file.served.append((status, len(data)))
        self._send(status, headers | fault.headers, data, fault)

    def _part(self, body: bytes, fault: Fault, validators: list[str | None]) -> tuple[int, int, int]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not asked or fault.ignores_range or self._is_other(condition, fault, validators):
            return 200, 0, len(body)
        start, end = int(asked[1]), min(int(asked[2] or len(body)) + 1, len(body))
        return (206, start, end) if start < len(body) else (416, 0, 0)

    @staticmethod
    def _is_other(condition: str | None, fault: Fault, validators: list[str | None]) -> bool:
        return bool(condition) and condition not in validators and not fault.ignores_if_range

    def _send(self, status: int, headers: dict[str, str], data: bytes, fault: Fault = Fault()) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data) + fault.length_lie))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = next((end for end in (fault.cut_after, fault.stall_after) if end is not None), None)
        sent = data[:stop]
        if fault.is_chunked:
            end = b"" if stop is not None else b"0\r\n\r\n"
            sent = f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end
        self.wfile.write(sent)
        self.wfile.flush()
        if fault.stall_after is not None:
            self.server.closing.wait(30)
        if stop is not None or fault.length_lie:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


def mpd(*representations: dict[str, Any], duration_s: float = 3, segments: int = 0) -> bytes:
    """A DASH manifest: each format is one file, as YouTube's are, or so many segments NAME-1, NAME-2, …"""
    rows: list[str] = []
    for one in representations:
        where = f"<BaseURL>{one['url']}</BaseURL>"
        if segments:
            where = (
                f'<SegmentTemplate media="{one["url"]}-$Number$" startNumber="1" timescale="1" '
                f'duration="{-(-int(duration_s) // segments)}"/>'
            )
        rows.append(
            f'<Representation id="{one["id"]}" bandwidth="{one.get("bandwidth", 1000)}" width="{one["width"]}" '
            f'height="{one["height"]}" frameRate="{one["fps"]}" codecs="{one.get("codecs", "avc1.640028")}">{where}'
            "</Representation>"
        )
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'mediaPresentationDuration="PT{duration_s}S"><Period><AdaptationSet mimeType="video/mp4">'
        + "".join(rows)
        + "</AdaptationSet></Period></MPD>"
    ).encode()


def m3u8_master(*variants: dict[str, Any]) -> bytes:
    """An HLS list of formats."""
    lines = ["#EXTM3U"]
    for one in variants:
        lines.append(
            f"#EXT-X-STREAM-INF:BANDWIDTH={one.get('bandwidth', 1000)},RESOLUTION={one['width']}x{one['height']},"
            f'FRAME-RATE={one["fps"]},CODECS="avc1.640028"'
        )
        lines.append(one["url"])
    return "\n".join(lines).encode()


def m3u8(segments: list[str], *, segment_s: float = 1, is_live: bool = False) -> bytes:
    """An HLS list of segments."""
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2"]
    for url in segments:
        lines += [f"#EXTINF:{segment_s},", url]
    return "\n".join([*lines, *([] if is_live else ["#EXT-X-ENDLIST"])]).encode()
