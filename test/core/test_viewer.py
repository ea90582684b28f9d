# SPDX-License-Identifier: Apache-2.0
"""The player page and its server (the page in a browser is tested apart)."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspatio_ros.viewer.page import PageOverlay, PageSeries, PageVideo, write_page
from inspatio_ros.viewer.serve import make_server

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def served(tmp_path: Path) -> Iterator[http.client.HTTPConnection]:
    (tmp_path / "clip.mp4").write_bytes(CONTENT)
    server = make_server(tmp_path)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    yield connection
    connection.close()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize(("asked", "first", "last"), [
    ("bytes=0-0", 0, 0), ("bytes=100-299", 100, 299), ("bytes=10000-", 10000, 10239),
    ("bytes=-5", 10235, 10239), ("bytes=10000-99999", 10000, 10239)])
def test_ranges(served: http.client.HTTPConnection, asked: str, first: int, last: int) -> None:
    served.request("GET", "/clip.mp4", headers={"Range": asked})
    answer = served.getresponse()
    assert answer.status == 206
    assert answer.getheader("Content-Range") == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.read() == CONTENT[first:last + 1]


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=5-2", "lines=1-2", "bytes=-"])
def test_impossible_range(served: http.client.HTTPConnection, asked: str) -> None:
    served.request("GET", "/clip.mp4", headers={"Range": asked})
    answer = served.getresponse()
    assert answer.status == 416
    assert answer.getheader("Content-Range") == f"bytes */{len(CONTENT)}"
    answer.read()
    served.request("GET", "/clip.mp4")  # the connection still works
    assert served.getresponse().read() == CONTENT


def test_nothing_outside_the_folder_is_served(served: http.client.HTTPConnection) -> None:
    served.request("GET", "/../../../../etc/passwd", headers={"Range": "bytes=0-10"})
    assert served.getresponse().status == 404


def test_server_listens_on_loopback_and_needs_a_folder(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()
    with pytest.raises(NotADirectoryError):
        make_server(tmp_path / "absent")


def test_page_holds_what_it_was_given(tmp_path: Path) -> None:
    page = write_page(
        tmp_path / "out", [PageVideo("source", "Source", "source.mp4", "5 Hz")], fps=10.0,
        frames=3, title="A </script> title",
        overlays=[PageOverlay("provenance", "Provenance", "provenance.mp4", "source", "p")],
        series=[PageSeries("coverage", [0.5, float("nan"), None])])
    assert page.read_text(encoding="utf-8").count("player_data.js") == 1
    for name in ("player.js", "player.css"):
        assert (page.parent / name).stat().st_size > 0
    text = (page.parent / "player_data.js").read_text(encoding="utf-8")
    assert "</script>" not in text
    data = json.loads(text.removeprefix("window.INSPATIO_PLAYER = ").rstrip().rstrip(";"))
    assert data["title"] == "A </script> title"
    assert data["series"][0]["values"] == [0.5, None, None]
    assert data["overlays"][0]["key"] == "p"


def test_page_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one video"):
        write_page(tmp_path, [], fps=10.0, frames=1, title="")
