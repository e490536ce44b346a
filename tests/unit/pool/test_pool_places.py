"""Places of pools: what a web server may send without saying how much it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat

import pytest

from coresift.server.errors import StartError
from coresift.server.pool import places
from coresift.server.pool.places import Place

PIECE = bytes(64 * 1024)
ENDLESS = 1_000
"""Pieces that are as good as endless for a bound of a few bytes."""


class _Streaming(BaseHTTPRequestHandler):
    """Never says how long a file is; "long/..." has no end, others have 10 bytes."""

    pieces_sent = 0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        is_long = self.path.startswith("/long")
        try:
            for piece in repeat(PIECE, ENDLESS) if is_long else (b"01234", b"56789"):
                self.wfile.write(piece)
                self.wfile.flush()
                type(self).pieces_sent += 1
        except ConnectionError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Streaming) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_manifest_of_unknown_size_is_read_up_to_a_bound(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MANIFEST_BYTES", 10)
    assert Place.at(f"{web}/short").manifest() == b"0123456789"
    with pytest.raises(StartError, match="more than 10 bytes: it is no manifest"):
        Place.at(f"{web}/long").manifest()
    assert _Streaming.pieces_sent < ENDLESS
