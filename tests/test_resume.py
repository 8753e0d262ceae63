"""A second run goes on where the first was killed, unless the file is no longer the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import CONTENT, OTHER, beside, get, half
from server import Server, reset


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.safetensors"


@pytest.mark.parametrize("known", [True, False], ids=["hash", "etag"])
def test_a_second_run_goes_on(server, path, known):
    url = server.put("/file", CONTENT)
    size = half(path, url)
    get(url, path, **({} if known else {"sha256": None, "size": None}))
    assert server.log[0].range == f"bytes={size}-"
    assert server.log[0].sent == len(CONTENT) - size
    assert path.read_bytes() == CONTENT
    assert beside(path) == {path.name}


@pytest.mark.parametrize("known", [True, False], ids=["hash", "etag"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, path, known):
    url = server.put("/file", CONTENT, etag='"v2"')
    half(path, url, OTHER, validator='"v1"')
    get(url, path, **({} if known else {"sha256": None, "size": None}))
    assert server.log[0].if_range == '"v1"'
    assert server.statuses("/file") == [200]
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_if_range_is_found_out(server, path):
    def ignore(handler, page):
        del handler.headers["If-Range"]
        handler.serve(page)

    url = server.put("/file", CONTENT, ignore, etag='"v2"')
    half(path, url, OTHER, validator='"v1"')
    get(url, path, sha256=None)
    assert server.statuses("/file") == [206, 200]
    assert path.read_bytes() == CONTENT


def test_pieces_that_do_not_fit_are_fetched_anew_once(server, path):
    url = server.put("/file", CONTENT, etag=None)
    half(path, url, OTHER, validator=None)
    get(url, path)
    assert server.statuses("/file") == [206, 200]
    assert path.read_bytes() == CONTENT


def test_a_date_serves_where_there_is_no_strong_etag(server, path):
    then = "Tue, 05 Nov 2019 13:00:00 GMT"
    url = server.put("/file", CONTENT, reset(0.6), etag='W/"weak"', modified=then)
    get(url, path, sha256=None)
    assert (server.log[1].status, server.log[1].if_range) == (206, then)


def test_without_etag_date_or_hash_it_begins_anew(server, path):
    url = server.put("/file", CONTENT)
    half(path, url, OTHER, validator=None)
    get(url, path, sha256=None)
    assert server.log[0].range is None
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file(server, path):
    url = server.put("/file", CONTENT[:1000])
    half(path, url)
    get(url, path, sha256=None, size=None)
    assert server.statuses("/file") == [416, 200]
    assert path.read_bytes() == CONTENT[:1000]


def test_a_part_that_is_whole_needs_no_request(server, path):
    url = server.put("/file", CONTENT)
    half(path, url, CONTENT + CONTENT)
    get(url, path)
    assert path.read_bytes() == CONTENT and not server.log


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", None])
def test_a_note_that_was_cut_off_costs_no_more_than_the_part(server, path, note):
    url = server.put("/file", CONTENT)
    half(path, url, OTHER)
    place = path.with_name(f"{path.name}.part.json")
    place.write_bytes(note) if note is not None else place.unlink()
    get(url, path)
    assert path.read_bytes() == CONTENT


def test_the_address_that_it_was_begun_at_is_asked_first(server, path):
    urls = [server.put("/1", OTHER), server.put("/2", CONTENT)]
    half(path, urls[1])
    assert get(urls, path, sha256=None).url == urls[1]
    assert [(request.path, request.status) for request in server.log] == [("/2", 206)]
    assert path.read_bytes() == CONTENT
