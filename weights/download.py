"""One file over HTTP: goes on where it stopped, tries again, and is whole or not there.

What has arrived lies in `NAME.part`; it gets its name once its size and SHA-256 are right.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from weights import answer
from weights.contents import HEAD, impostor
from weights.part import Part

CHUNK = 2**20
LONGEST = 1e6  # seconds to wait for anything, far below what a clock can count


class FetchError(OSError):
    """A file could not be fetched: says which, from where, what was wrong and what to do."""


class NoSpace(FetchError):
    """The disk is full: another address would not help."""


class _Refused(Exception):
    """This address will not give the file."""


class _Broken(Exception):
    """This attempt failed; another may not. `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Unreachable(_Broken):
    """No answer at all: nor would another address on this host have one."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to try again."""

    connect: float = 10.0
    read: float = 30.0  # without a byte, or at fewer than `slowest` bytes a second
    slowest: int = 1024
    retries: int = 4  # in a row, without a new MiB between; 2 where nothing answers from the start
    backoff: float = 1.0  # before the first retry; doubles with each
    longest: float = 120.0  # before any; a server that asks for more is given up

    def __post_init__(self) -> None:
        for seconds in (self.connect, self.read):
            if not 0 < seconds <= LONGEST:  # nor is a NaN
                raise ValueError(
                    f"A time-out of {seconds:g} s can't be, wanted more than 0 and at most"
                    f" {LONGEST:,.0f} s. Give another one."
                )
        if self.retries < 0:
            raise ValueError(f"{self.retries} retries can't be, wanted 0 or more. Give another.")


PATIENCE = Patience()


@dataclass(frozen=True)
class Received:
    """A whole file, and which address gave it."""

    url: str
    size: int
    sha256: str


def download(
    urls: str | Sequence[str],
    path: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    patience: Patience = PATIENCE,
    tell: Callable[[str], None] = lambda message: None,
    bar: bool = False,
    session: requests.Session | None = None,
    fault: Callable[[Path], str | None] = lambda path: None,
) -> Received:
    """Fetch `path` from the first of `urls` that has it, with this SHA-256 and size where given.

    FetchError lists why each address failed; what arrived is kept for the next run to go on with.
    The caller sees to it that nobody else fetches the same path. `bar` shows on terminals alone.
    `fault` says why a file that has not the hash stated for it, if any is, is not what it claims.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(Part(path), sha256, size, patience, bar, session, fault)
    begun = file.part.origin().get("url")
    reasons: list[str] = []
    unreachable: set[str] = set()
    urls = sorted([urls] if isinstance(urls, str) else urls, key=lambda u: answer.shown(u) != begun)
    for url in urls:
        if answer.host(url) in unreachable:
            continue
        try:
            return _persist(file, url, tell)
        except (_Refused, _Broken) as error:
            reasons.append(f"{answer.shown(url)}: {error}")
            if isinstance(error, _Unreachable):
                unreachable.add(answer.host(url))
    kept = ""
    if any(file.may_resume(url) for url in urls):
        kept = f" {file.part.size:,} bytes of it are kept; a new run goes on."
    raise FetchError(f"{path.name} could not be fetched from {'; '.join(reasons)}.{kept}")


def _persist(file: _File, url: str, tell: Callable[[str], None]) -> Received:
    """Try one address until it gives the file, refuses it, or fails too often in a row."""
    patience, failures, furthest = file.patience, 0, file.part.size
    while True:
        try:
            return file.fetch(url)
        except _Broken as broken:
            if file.part.size >= furthest + CHUNK:
                failures = 0
            furthest = max(furthest, file.part.size)
            failures += 1
            wait = broken.wait
            if wait is None:
                wait = min(patience.longest, patience.backoff * 2 ** (failures - 1))
            elif wait > patience.longest:
                raise _Refused(f"{broken}; the server asks to wait {wait:.0f} s") from None
            lost = isinstance(broken, _Unreachable) and not file.part.size
            retries = min(patience.retries, 2) if lost else patience.retries
            if failures > retries:
                raise
            tell(
                f"{file.part.target.name}: {broken}; retry {failures} of {retries} in {wait:.3g} s"
            )
            time.sleep(wait)


@dataclass
class _File:
    """A file on its way: what is wanted, what has arrived, and how a request goes."""

    part: Part
    sha256: str | None
    size: int | None
    patience: Patience
    bar: bool
    session: requests.Session | None
    fault: Callable[[Path], str | None]

    def fetch(self, url: str) -> Received:
        """One request, or none where everything has arrived."""
        if not (self.part.size == self.size and self.may_resume(url)):
            try:
                with self._request(url) as response:
                    self._take(url, response)
            except urllib3.exceptions.ReadTimeoutError:
                raise _Broken(f"no byte for {self.patience.read:g} s{self._so_far()}") from None
            except (urllib3.exceptions.HTTPError, ConnectionError) as error:
                reason = f"the connection broke{self._so_far()} ({answer.short(error)})"
                raise _Broken(reason) from None
        return self._conclude(url)

    def may_resume(self, url: str) -> bool:
        """What arrived is of use if it is known to be of this version, or the hash will tell."""
        origin = self.part.origin()
        same = origin.get("url") == answer.shown(url) and origin.get("validator")
        return bool(same or (origin.get("url") and self.sha256))

    def _request(self, url: str) -> requests.Response:
        # Compressed on the way, neither the range nor the length would be the file's.
        headers = {"Accept-Encoding": "identity", "User-Agent": "gpt2-scratch"}
        if self.may_resume(url):
            headers["Range"] = f"bytes={self.part.size}-"
            origin = self.part.origin()
            if origin["url"] == answer.shown(url) and origin.get("validator"):
                headers["If-Range"] = origin["validator"]
        get = self.session.get if self.session else requests.get
        timeout = (self.patience.connect, self.patience.read)
        try:
            return get(url, headers=headers, stream=True, timeout=timeout)
        except requests.exceptions.SSLError as error:
            raise _Refused(f"no secure connection ({answer.short(error)})") from None
        except requests.exceptions.ReadTimeout:
            raise _Broken(f"no answer for {self.patience.read:g} s") from None
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Unreachable(f"no connection ({answer.short(error)})") from None
        except requests.RequestException as error:
            raise _Refused(answer.short(error)) from None
        except ValueError as error:  # which requests does not foresee
            reason = f"it is no address, or redirects to none ({answer.short(error)})"
            raise _Refused(reason) from None

    def _take(self, url: str, response: requests.Response) -> None:
        """Append the answer's body to what has arrived, or let it begin anew."""
        part, status = self.part, response.status_code
        if status == 416 and part.size:
            known = (None, part.origin().get("validator"))
            if answer.is_the_end(response, part.size) and answer.validator(response) in known:
                return
            raise self._anew("the file changed on the server")
        if status in answer.PASSING:
            raise _Broken(answer.status_of(response), wait=answer.retry_after(response))
        if status not in (200, 206):
            raise _Refused(answer.status_of(response))
        start, total = answer.extent(response)
        if start != part.size and status == 206:
            raise self._anew("the partial answer is not the part that was asked for")
        if start and self._changed(response, total):
            raise self._anew("the file changed on the server")
        # Looked at before what has arrived makes room for it: a page is no reason to lose that.
        first = response.raw.read1(CHUNK, decode_content=True)
        page = None if start else impostor(first[:HEAD])
        if total is not None and self.size not in (None, total):
            raise _Refused(f"got {page or f'{total:,} bytes'}, wanted {self.size:,} bytes")
        if page or not (start or first):
            raise _Refused(f"got {page or 'an empty answer'} instead of the file")
        try:
            if not start:
                part.begin(answer.origin(response, url, total))
            self._check_space(total)
            part.append(self._chunks(first, response, total))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(self._full(total)) from None
            raise
        if total is not None and part.size < total:
            raise _Broken(f"the answer ended after {part.size:,} of {total:,} bytes")

    def _chunks(
        self, chunk: bytes, response: requests.Response, total: int | None
    ) -> Iterator[bytes]:
        """The body from this chunk on, with a progress bar; _Broken where it only trickles."""
        patience, name = self.patience, self.part.target.name
        mark, since = time.monotonic(), 0
        with tqdm(
            total=total,
            initial=self.part.size,
            desc=name if len(name) <= 24 else f"{name[:23]}…",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if self.bar else True,  # None: where stderr is no terminal
        ) as progress:
            # read1 gives what is there; read would wait for a whole chunk, however slowly it comes.
            while chunk:
                yield chunk
                if self.size is not None and self.part.size > self.size:
                    return  # it may never end
                progress.update(len(chunk))
                since += len(chunk)
                if (now := time.monotonic()) >= mark + patience.read:
                    if since < patience.slowest * (now - mark):
                        reason = f"only {since:,} bytes in {now - mark:.3g} s{self._so_far()}"
                        raise _Broken(reason)
                    mark, since = now, 0
                chunk = response.raw.read1(CHUNK, decode_content=True)

    def _conclude(self, url: str) -> Received:
        """Check what has arrived and give it its name."""
        received = Received(answer.shown(url), self.part.size, self.part.sha256())
        if why := self._wrong(received):
            if self.part.pieced:
                raise self._anew("its pieces do not make the file")
            self.part.drop()
            raise _Refused(why)
        self.part.finish()
        return received

    def _wrong(self, received: Received) -> str | None:
        """Why what has arrived is not the file."""
        wanted = self.sha256 or self.part.origin().get("sha256")
        page = impostor(self.part.head(HEAD)) if received.size else "an empty answer"
        if page:
            return f"got {page} instead of the file"
        if self.size not in (None, received.size):
            more = "over " if received.size > self.size else ""  # no more than that was read
            return f"got {more}{min(received.size, self.size):,} bytes, wanted {self.size:,}"
        if wanted == received.sha256:
            return None
        why = self.fault(self.part.path)
        got = f"got SHA-256 {received.sha256}, wanted {wanted}" if wanted else None
        return ": ".join(filter(None, (got, why))) or None

    def _anew(self, why: str) -> _Broken:
        """The error after which it begins anew."""
        self.part.drop()
        return _Broken(f"{why}; beginning anew", wait=0)

    def _changed(self, response: requests.Response, total: int | None) -> bool:
        """Whether a partial answer is of another version than what has arrived."""
        origin = self.part.origin()
        length = total not in (None, origin.get("bytes") or total)
        # Whoever named the version with the whole names it with a part.
        return not self.sha256 and (length or origin.get("validator") != answer.validator(response))

    def _check_space(self, total: int | None) -> None:
        if (total or self.size or 0) - self.part.size > _free(self.part.path.parent):
            raise NoSpace(self._full(total))

    def _full(self, total: int | None) -> str:
        folder, wanted = self.part.path.parent, total or self.size
        more = f"{wanted - self.part.size:,} more bytes" if wanted else "more room"
        return (
            f"{self.part.target.name} needs {more}, and the disk of {folder} has"
            f" {_free(folder):,} bytes. Free some, or name a folder on another disk"
            " (GPT2_SCRATCH_CACHE for fetched weights); a new run goes on."
        )

    def _so_far(self) -> str:
        return f" after {self.part.size:,} bytes" if self.part.size else ""


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
