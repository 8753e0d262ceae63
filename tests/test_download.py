"""One file over HTTP, from a real server on loopback that misbehaves in every way it can."""

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
from downloads import CONTENT, HASTY, OTHER, QUICK, SHA256, SHORT, beside, fails, get, half
from server import Handler, Server, compressed, cut, reset, silence, status, trickle

from weights.download import FetchError, NoSpace, Patience, Received, download


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.safetensors"


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_arrives_whole(server, path):
    url = server.put("/file", CONTENT)
    assert get(url, path) == Received(url, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert beside(path) == {path.name}
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def test_nothing_need_be_known_of_it(server, path):
    url = server.put("/file", CONTENT, length=False, etag=None)
    assert get(url, path, sha256=None, size=None).sha256 == SHA256
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [cut(0.6), reset(0.6)], ids=["truncated", "reset"])
@pytest.mark.parametrize("known", [True, False], ids=["hash", "etag"])
def test_a_broken_answer_is_gone_on_with(server, path, fault, known):
    url = server.put("/file", CONTENT, fault)
    said: list[str] = []
    known_of_it = {} if known else {"sha256": None, "size": None}
    assert get(url, path, tell=said.append, **known_of_it).sha256 == SHA256
    _first, second = server.log
    assert second.status == 206 and second.if_range == '"v1"'
    assert second.range and int(second.range[6:-1]) > len(CONTENT) // 2  # it did not begin anew
    assert len(said) == 1 and "model.safetensors" in said[0] and "retry 1 of 3" in said[0]


def test_what_breaks_every_time_is_kept_for_the_next_run(server, path):
    url = server.put("/file", CONTENT, *[reset(0.6)] * 9)
    arrived = fails(url, path, url, "bytes of it are kept").partition(" bytes of it are")[0]
    assert len(server.log) == 1 + QUICK.retries
    kept = int(arrived.rpartition(" ")[2].replace(",", ""))
    assert kept == path.with_name(f"{path.name}.part").stat().st_size > 0.5 * len(CONTENT)
    server.pages["/file"].faults.clear()
    get(url, path)
    assert server.log[-1].range == f"bytes={kept}-"
    assert path.read_bytes() == CONTENT


def test_a_break_after_progress_is_not_held_against_a_server(server, path):
    content = CONTENT * 8
    faults = [reset((i + 1) / 6) for i in range(5)]  # 1.3 MB further each time
    url = server.put("/file", content, *faults)
    assert get(url, path, sha256=None, size=None).size == len(content)
    assert len(server.log) == 6 > 1 + QUICK.retries


def test_wrong_hash(server, path):
    url = server.put("/file", OTHER)
    wrong = hashlib.sha256(OTHER).hexdigest()
    fails(url, path, url, f"got SHA-256 {wrong}, wanted {SHA256}")
    assert beside(path) == set()
    assert len(server.log) == 1  # it would only come again


@pytest.mark.parametrize("length", [True, False])
def test_wrong_size(server, path, length):
    url = server.put("/file", CONTENT * 20, length=length)
    got = "20,000,060" if length else "over 1,000,003"
    fails(url, path, f"got {got} bytes, wanted 1,000,003", sha256=None)
    assert server.log[0].sent < 20 * len(CONTENT)  # not all of it was read: it may never end


@pytest.mark.parametrize(
    ("code", "hint"), [(404, "not there"), (403, "denied"), (401, "login"), (410, "no longer")]
)
def test_a_refusal_is_final(server, path, code, hint):
    url = server.put("/file", CONTENT, *[status(code)] * 9)
    fails(url, path, url, f"status {code}", "wanted 200", hint)
    assert len(server.log) == 1


def test_500_twice_then_good(server, path):
    url = server.put("/file", CONTENT, status(500), status(503))
    get(url, path)
    assert server.statuses("/file") == [500, 503, 200]


def test_500_for_ever(server, path):
    fails(server.put("/file", CONTENT, *[status(500)] * 9), path, "status 500")
    assert len(server.log) == 1 + QUICK.retries


@pytest.mark.parametrize("as_date", [False, True])
def test_429_waits_as_long_as_it_is_told(server, path, as_date):
    # A date has whole seconds: 2.0 rounded down is more than one second away.
    after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    url = server.put("/file", CONTENT, status(429, Retry_After=after))
    began = time.monotonic()
    get(url, path, patience=Patience(backoff=0.01, longest=3))
    assert time.monotonic() - began >= 0.9
    assert server.statuses("/file") == [429, 200]


def test_a_wait_beyond_patience_is_said_and_not_waited(server, path):
    url = server.put("/file", CONTENT, status(429, Retry_After="20"))
    fails(url, path, "429", "asks to wait 20 s")


def test_a_server_without_ranges_sends_all_again(server, path):
    url = server.put("/file", CONTENT, reset(0.6), ranges=False)
    get(url, path)
    assert server.statuses("/file") == [200, 200]
    assert server.log[1].range is not None  # it was asked for the rest
    assert path.read_bytes() == CONTENT


def test_a_date_to_wait_for_is_by_the_servers_clock(server, path):
    def behind(handler, page):
        handler.date_time_string = lambda: "Sun, 06 Nov 1994 08:49:37 GMT"
        handler.answer(429, b"", Retry_After="Sun Nov  6 08:49:57 1994")  # as was once usual

    fails(server.put("/file", CONTENT, behind), path, "asks to wait 20 s")


def test_a_wait_that_is_none_is_not_waited(server, path):
    for after in ("\xb2", "-5", "1e3", "Wed, 21 Oct 2026 07:28:00 +9999999999999"):
        url = server.put("/file", CONTENT, status(429, Retry_After=after))
        get(url, path)
        assert server.statuses("/file")[-2:] == [429, 200]


def test_a_redirect_is_followed(server, path):
    server.put("/elsewhere", CONTENT)
    url = server.put("/file", b"", *[status(302, Location="/elsewhere")] * 2)
    server.pages["/elsewhere"].faults.append(reset(0.6))
    assert get(url, path, sha256=None).url == url
    assert server.statuses("/elsewhere") == [200, 206]


def test_redirects_in_a_circle_end(server, path):
    url = server.put("/file", b"", *[status(302, Location="/file")] * 99)
    fails(url, path, "redirects")


@pytest.mark.parametrize("place", ["http://[::1/x", "http://a..b/", "\xff\xfe", "file:///x"])
def test_a_redirect_to_no_address_is_refused(server, path, place):
    words = "'file:///x'" if place == "file:///x" else "redirects to none"
    urls = [server.put("/1", b"", status(302, Location=place)), server.put("/2", CONTENT)]
    fails(urls[0], path, urls[0], words)
    server.put("/1", b"", status(302, Location=place))
    assert get(urls, path).url == urls[1]


@pytest.mark.parametrize("fault", [trickle(0.015), trickle(1), silence(30)])
def test_a_slow_server_is_given_up(server, path, fault):
    url = server.put("/file", SHORT, *[fault] * 9)
    fails(url, path, " s", patience=HASTY, sha256=None, size=len(SHORT))


def test_a_slow_moment_is_got_over(server, path):
    url = server.put("/file", SHORT, trickle(0.015))
    patience = Patience(read=0.3, retries=30, backoff=0.01)  # a busy machine is slow, too
    get(url, path, patience=patience, sha256=None, size=len(SHORT))
    assert server.pages["/file"].faults == []
    assert path.read_bytes() == SHORT


def test_no_network_at_all(path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        message = fails([url, f"{url}2"], path, url, "no connection", "refused")
        assert message.count("no connection") == 1  # the other address is on the same host
    assert "object at 0x" not in message and "Max retries" not in message
    fails("http://no.such.host.invalid/file", path, "no connection")
    fails("nonsense://x", path, "nonsense")


# ---- mirrors ---------------------------------------------------------------------------------


def test_addresses_are_tried_in_order(server, path):
    bad = [
        server.put("/1", b"", status(404)),
        server.put("/2", OTHER),
        server.put("/3", b"<html>"),
    ]
    good, unused = server.put("/4", CONTENT), server.put("/5", CONTENT)
    assert get([*bad, good, unused], path).url == good
    assert [request.path for request in server.log] == ["/1", "/2", "/3", "/4"]


def test_a_password_in_an_address_is_not_told(server, path):
    url = server.put("/file", CONTENT, *[reset(0.6)] * 4)
    secret = url.replace("://", "://me:secret@")
    assert "secret" not in fails([secret, "http://[::1"], path, url, "[::1: ")
    assert "secret" not in path.with_name(f"{path.name}.part.json").read_text()
    assert get(secret, path).url == url
    assert server.log[-1].if_range == '"v1"'


def test_every_address_is_told_with_its_reason(server, path):
    urls = [server.put("/1", b"", status(404)), server.put("/2", OTHER)]
    message = fails(urls, path, "404", "SHA-256")
    assert message.index(urls[0]) < message.index("404") < message.index(urls[1])


def test_a_known_file_is_gone_on_with_at_another_address(server, path):
    urls = [server.put("/1", CONTENT, *[reset(0.6)] * 9), server.put("/2", CONTENT, etag='"other"')]
    get(urls, path)
    last = server.log[-1]
    assert (last.path, last.status, last.if_range) == ("/2", 206, None)
    assert path.read_bytes() == CONTENT


def test_an_unknown_file_is_not_pieced_together_from_two_addresses(server, path):
    urls = [server.put("/1", CONTENT, *[reset(0.6)] * 9), server.put("/2", OTHER)]
    get(urls, path, sha256=None)
    assert server.log[-1].status == 200
    assert path.read_bytes() == OTHER


# ---- what is not the file --------------------------------------------------------------------

PAGES: list[tuple[bytes, str]] = [
    (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>" + b" " * 999, "titled 'Sign in'"),
    (b"<HTML><body>moved</body>", "an HTML page"),
    (
        b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>BlobNotFound</Code></Error>',
        "an XML answer with the code 'BlobNotFound'",
    ),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "a Git LFS pointer"),
    (b"", "an empty answer"),
]


@pytest.mark.parametrize(("page", "name"), PAGES, ids=[name for _, name in PAGES])
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_page_is_no_file(server, path, page, name, length, known):
    url = server.put("/file", page, length=length, kind="text/html")
    known_of_it = {} if known else {"sha256": None, "size": None}
    if not page and known and length:
        name = "got 0 bytes, wanted 1,000,003"
    fails(url, path, name, **known_of_it)
    assert not [each for each in beside(path) if each.endswith(".part")]


def test_compression_that_nobody_asked_for_is_undone(server, path):
    url = server.put("/file", CONTENT, compressed)
    get(url, path)
    assert path.read_bytes() == CONTENT


def test_compression_is_not_asked_for(server, path):
    def willing(handler, page):
        (compressed if "gzip" in handler.headers["Accept-Encoding"] else Handler.serve)(
            handler, page
        )

    url = server.put("/file", CONTENT, willing)
    get(url, path)
    assert server.log[0].sent == len(CONTENT)


def test_hugging_face_states_the_hash_in_its_redirect(server, path):
    server.put("/cdn", OTHER)
    headers = {"Location": "/cdn", "X_Linked_Etag": f'"{SHA256}"'}
    url = server.put("/file", b"", status(302, **headers))
    fails(url, path, f"wanted {SHA256}", sha256=None)


# ---- the disk --------------------------------------------------------------------------------


def test_space_is_looked_at_first(server, path, monkeypatch):
    urls = [server.put("/file", CONTENT), server.put("/other", CONTENT)]
    size = half(path, urls[0])
    free = len(CONTENT) - size
    usage = shutil.disk_usage(path.parent)._replace(free=free - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NoSpace) as error:
        get(urls, path)
    words = (path.name, f"{free:,} more bytes", f"has {free - 1:,}", "GPT2_SCRATCH_CACHE")
    assert all(word in str(error.value) for word in words)
    assert not [request for request in server.log if request.path == "/other"]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))
    get(urls, path)
    assert server.log[-1].status == 206


def test_a_disk_that_fills_up(server, path, monkeypatch):
    """As a disk does it: it takes some of a write, then none of the next."""
    url = server.put("/file", CONTENT)
    room = 10**6
    real = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[:room]
            room -= len(data)
            return self.file.write(data)

    @contextlib.contextmanager
    def crowded(self, mode="r", *args, **kwargs):
        with real(self, mode, *args, **kwargs) as file:
            yield Full(file) if mode == "ab" else file

    monkeypatch.setattr(Path, "open", crowded)
    with pytest.raises(NoSpace, match=r"model\.safetensors needs .* Free some"):
        get(url, path)
    monkeypatch.undo()
    get(url, path)
    assert server.log[-1].status == 206  # it kept what was whole
    assert path.read_bytes() == CONTENT


def test_a_kept_file_is_not_touched_by_a_failure(server, path):
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(FetchError):
        get(server.put("/file", OTHER), path)
    assert path.read_bytes() == b"old"


def test_the_faults_are_real(server):
    """The server itself: what it says it does, a client that knows nothing sees."""
    import urllib.request

    url = server.put("/file", b"x" * 100, cut(0.5))
    with urllib.request.urlopen(url) as answer, pytest.raises(Exception, match="IncompleteRead"):
        answer.read()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"x" * 100


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e20])
def test_a_time_that_no_clock_has_is_refused(seconds):
    with pytest.raises(ValueError, match=r"time-out of .* s can't be, wanted more than 0"):
        Patience(read=seconds)
    with pytest.raises(ValueError, match="-1 retries can't be"):
        Patience(retries=-1)


def test_many_at_once_over_kept_connections(server, tmp_path):
    """As a set of photographs is fetched: each by itself, and the failures are the caller's."""
    contents = {f"{i}.jpg": CONTENT[i : i + 20_000] for i in range(40)}
    for name, content in contents.items():
        server.put(f"/{name}", content, *([status(404)] if name == "7.jpg" else []))
    with requests.Session() as session, ThreadPoolExecutor(8) as pool:
        jobs = {
            name: pool.submit(
                download, f"{server.address}/{name}", tmp_path / name, session=session
            )
            for name in contents
        }
    failed = [name for name, job in jobs.items() if job.exception()]
    assert failed == ["7.jpg"] and isinstance(jobs["7.jpg"].exception(), FetchError)
    assert {path.name for path in tmp_path.iterdir()} == contents.keys() - {"7.jpg"}
    assert all((tmp_path / n).read_bytes() == contents[n] for n in contents if n not in failed)
