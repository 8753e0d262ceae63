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
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from weights import answer
from weights.contents import HEAD, impostor
from weights.part import Part

CHUNK = 2**20
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses after which to try again


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
) -> Received:
    """Fetch `path` from the first of `urls` that has it, with this SHA-256 and size where given.

    FetchError lists why each address failed; what arrived is kept for the next run to go on with.
    The caller sees to it that nobody else fetches the same path. `bar` shows on terminals alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(Part(path), sha256, size, patience, bar, session)
    begun = file.part.origin().get("url")
    reasons: list[str] = []
    unreachable: set[str] = set()
    for url in sorted([urls] if isinstance(urls, str) else urls, key=lambda url: url != begun):
        if urlsplit(url).netloc in unreachable:
            continue
        try:
            return _persist(file, url, tell)
        except (_Refused, _Broken) as error:
            reasons.append(f"{url}: {error}")
            if isinstance(error, _Unreachable):
                unreachable.add(urlsplit(url).netloc)
    kept = f" {file.part.size:,} bytes of it are kept; a new run goes on." if file.part.size else ""
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

    def fetch(self, url: str) -> Received:
        """One request, or none where everything has arrived."""
        if not (self.part.size == self.size and self._may_resume(url)):
            try:
                with self._request(url) as response:
                    self._take(url, response)
            except urllib3.exceptions.ReadTimeoutError:
                raise _Broken(f"no byte for {self.patience.read:g} s{self._so_far()}") from None
            except (urllib3.exceptions.HTTPError, ConnectionError) as error:
                reason = f"the connection broke{self._so_far()} ({answer.short(error)})"
                raise _Broken(reason) from None
        return self._conclude(url)

    def _may_resume(self, url: str) -> bool:
        """What arrived is of use if it is known to be of this version, or the hash will tell."""
        origin = self.part.origin()
        same = origin.get("url") == url and origin.get("validator")
        return bool(same or (origin and self.sha256))

    def _request(self, url: str) -> requests.Response:
        # Compressed on the way, neither the range nor the length would be the file's.
        headers = {"Accept-Encoding": "identity", "User-Agent": "gpt2-scratch"}
        if self._may_resume(url):
            headers["Range"] = f"bytes={self.part.size}-"
            origin = self.part.origin()
            if origin["url"] == url and origin["validator"]:
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

    def _take(self, url: str, response: requests.Response) -> None:
        """Append the answer's body to what has arrived, or let it begin anew."""
        part, status = self.part, response.status_code
        if status == 416:  # the file is shorter than what has arrived
            part.drop()
            raise _Broken("the file changed on the server; beginning anew", wait=0)
        if status in PASSING:
            raise _Broken(answer.status_of(response), wait=answer.retry_after(response))
        if status not in (200, 206):
            raise _Refused(answer.status_of(response))
        try:
            start, total = answer.extent(response)
        except ValueError as error:
            raise _Refused(str(error)) from None
        if status == 206 and (start != part.size or self._changed(response)):
            part.drop()
            raise _Broken("the file changed on the server; beginning anew", wait=0)
        if total is not None and self.size not in (None, total):
            page = impostor(response.raw.read(HEAD, decode_content=True))
            raise _Refused(f"got {page or f'{total:,} bytes'}, wanted {self.size:,} bytes")
        if status == 200:
            origin = {"url": url, "validator": answer.validator(response)}
            part.begin(origin | {"sha256": answer.stated_sha256(response)})
        self._check_space(total)
        try:
            part.append(self._chunks(response, total))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(self._full(total)) from None
            raise
        if total is not None and part.size < total:
            raise _Broken(f"the answer ended after {part.size:,} of {total:,} bytes")

    def _chunks(self, response: requests.Response, total: int | None) -> Iterator[bytes]:
        """The body as it comes, with a progress bar; _Broken where it only trickles."""
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
            while chunk := response.raw.read1(CHUNK, decode_content=True):
                yield chunk
                progress.update(len(chunk))
                since += len(chunk)
                if (now := time.monotonic()) >= mark + patience.read:
                    if since < patience.slowest * (now - mark):
                        reason = f"only {since:,} bytes in {now - mark:.3g} s{self._so_far()}"
                        raise _Broken(reason)
                    mark, since = now, 0

    def _conclude(self, url: str) -> Received:
        """Check what has arrived and give it its name."""
        part = self.part
        received = Received(url, part.size, part.sha256())
        wanted = self.sha256 or part.origin().get("sha256")
        page = impostor(part.head(HEAD)) if part.size else "an empty answer"
        pieced = part.pieced
        if not page and self.size in (None, received.size) and wanted in (None, received.sha256):
            part.finish()
            return received
        part.drop()
        if page:
            raise _Refused(f"got {page} instead of the file")
        if pieced:
            raise _Broken("its pieces do not make the file; beginning anew", wait=0)
        if self.size not in (None, received.size):
            raise _Refused(f"got {received.size:,} bytes, wanted {self.size:,}")
        raise _Refused(f"got SHA-256 {received.sha256}, wanted {wanted}")

    def _changed(self, response: requests.Response) -> bool:
        """Whether a partial answer is of another version than what has arrived."""
        before, now = self.part.origin().get("validator"), answer.validator(response)
        return not self.sha256 and bool(before and now) and before != now

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
