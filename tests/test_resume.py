"""A second run goes on where the first was killed, unless the file is no longer the same."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import CONTENT, OTHER, QUICK, beside, fails, get, half
from server import Server, reset, status

from weights.download import FetchError, Patience


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


def test_a_part_that_is_whole_is_asked_about_where_its_size_is_unknown(server, path):
    """As a kill leaves it while the disk writes the last of it."""
    url = server.put("/file", CONTENT)
    half(path, url, CONTENT + CONTENT)
    get(url, path, size=None)
    half(path.with_name("other"), url, CONTENT + CONTENT)
    get(url, path.with_name("other"), size=None, sha256=None)
    assert server.statuses("/file") == [416, 416]
    assert path.read_bytes() == path.with_name("other").read_bytes() == CONTENT


@pytest.mark.parametrize("range_", [None, "hello", "bytes 0-1/2", "bytes 500001-/1000003"])
def test_a_partial_answer_of_another_part_is_not_believed(server, path, range_):
    def wrong(handler, page):
        more = {"Content-Range": range_} if range_ else {}
        handler.answer(206, CONTENT[500_001:], ETag='"v1"', **more)

    url = server.put("/file", CONTENT, wrong)
    half(path, url)
    get(url, path)
    assert server.statuses("/file") == [206, 200]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, '"v1"'], ids=["no etag any more", "the same etag"])
def test_a_longer_file_is_not_pieced_together_with_a_shorter(server, path, etag):
    """By a server that ignores If-Range, and names no version, or the wrong one."""

    def ignore(handler, page):
        del handler.headers["If-Range"]
        handler.serve(page)

    url = server.put("/file", CONTENT, reset(0.6))
    known = {"sha256": None, "size": None, "patience": Patience(retries=0)}
    with pytest.raises(FetchError, match="kept"):
        get(url, path, **known)
    server.put("/file", OTHER * 2, ignore, etag=etag)
    get(url, path, **known | {"patience": QUICK})
    assert path.read_bytes() == OTHER * 2


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", b'{"x": 1}', b'{"a":' * 10**5, None])
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


@pytest.mark.parametrize("known", [True, False], ids=["hash", "etag"])
def test_what_was_compressed_and_broke_is_fetched_anew(server, path, known):
    """Ranges are of the packed body there, and what arrived was unpacked."""
    packed = gzip.compress(CONTENT)

    def serve(share):
        def fault(handler, page):
            asked = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
            more = {"Content-Range": f"bytes {asked}-{len(packed) - 1}/{len(packed)}"}
            body = packed[asked:]
            sizes = {"Content-Length": str(len(body)), "Content-Encoding": "gzip", "ETag": '"v1"'}
            handler.head(206 if asked else 200, sizes | (more if asked else {}))
            handler.write(body[: int(share * len(body))])
            handler.close_connection = True

        return fault

    url = server.put("/file", CONTENT, serve(0.6), *[serve(1)] * 9)
    get(url, path, **({} if known else {"sha256": None, "size": None}))
    assert server.statuses("/file") == [200, 200]
    assert path.read_bytes() == CONTENT


def test_a_page_in_the_middle_costs_nothing_of_what_came(server, path):
    """As a hotel's network answers: the size of the file is not known, its hash is."""
    page = b"<html><head><title>Sign in</title></head>" + b" " * 9999
    url = server.put("/file", CONTENT, status(200, page), status(200, b""))
    size = half(path, url)
    for words in ("titled 'Sign in'", "an empty answer"):
        fails(url, path, words, f"{size:,} bytes of it are kept", size=None)
    get(url, path, size=None)
    assert (server.log[-1].status, server.log[-1].range) == (206, f"bytes={size}-")


def test_what_cannot_be_gone_on_with_is_not_called_kept(server, path):
    url = server.put("/file", CONTENT, *[reset(0.6)] * 9, etag=None)
    assert "kept" not in fails(url, path, "the connection broke", sha256=None)
