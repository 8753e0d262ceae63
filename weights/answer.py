"""What a server's answer says of a file: its length, its version, when to ask again."""

from __future__ import annotations

import datetime
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests

# After these, try again: 520 to 527 are a proxy's words about the server behind it.
PASSING = {408, 425, 429, 500, 502, 503, 504, *range(520, 528)}
HINTS = {
    401: "it wants a login",
    403: "access is denied: by the server, or by a proxy or firewall on the way",
    404: "it is not there",
    407: "the proxy wants a login",
    410: "it is no longer there",
}


def shown(url: str) -> str:
    """An address as it may be told and noted: without a name and a password in it."""
    return re.sub(r"://[^/@]*@", "://", url)


def host(url: str) -> str:
    """Whom an address asks; empty where it is none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def status_of(response: requests.Response) -> str:
    """`status 404 Not Found, wanted 200: it is not there`."""
    hint = HINTS.get(response.status_code)
    status = f"status {response.status_code} {response.reason or ''}".rstrip()
    return f"{status}, wanted 200{f': {hint}' if hint else ''}"


def extent(response: requests.Response) -> tuple[int | None, int | None]:
    """Where the body begins in the file, and the file's bytes, each where that is known."""
    if response.status_code == 206:
        found = re.match(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)$", _header(response, "Content-Range"))
        if not found or compressed(response):  # then it is a part of something else
            return None, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = _header(response, "Content-Length")
    return 0, int(length) if re.match("[0-9]+$", length) and not compressed(response) else None


def compressed(response: requests.Response) -> bool:
    """Whether a proxy or a server packed the body on the way, which nobody asked it to."""
    return _header(response, "Content-Encoding") not in ("", "identity")


def is_the_end(response: requests.Response, size: int) -> bool:
    """Whether it says that there is nothing behind these bytes, for they are the whole file."""
    return _header(response, "Content-Range") == f"bytes */{size}"


def validator(response: requests.Response) -> str | None:
    """What names this version of the file. A weak ETag may not be asked for with If-Range."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def origin(response: requests.Response, url: str, total: int | None) -> dict[str, Any]:
    """What to note of an answer, so that a later one can go on with its body."""
    stated = {"sha256": stated_sha256(response)}
    if compressed(response):  # a range would be one of the packed body: nothing can go on with it
        return stated
    return stated | {"url": shown(url), "validator": validator(response), "bytes": total}


def stated_sha256(response: requests.Response) -> str | None:
    """What Hugging Face states of a large file, in the answer that redirects to it."""
    for each in (*response.history, response):
        etag = each.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return None


def retry_after(response: requests.Response) -> float | None:
    """The header in seconds: it is a number, or a date, by the clock of the server."""
    value = _header(response, "Retry-After")
    if re.match("[0-9]+$", value):
        return float(value)
    then, now = _moment(value), _moment(_header(response, "Date"))
    return None if then is None else max(0.0, then - (time.time() if now is None else now))


def _moment(date: str) -> float | None:
    """Seconds since 1970 of a date in a header, None where it is none."""
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # one of the old forms of a date, which is of Greenwich too
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def short(error: BaseException) -> str:
    """The innermost reason, without the objects that requests wraps it in."""
    while True:
        inner = getattr(error, "reason", None) or (error.args or (None,))[-1]
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = re.sub(r"^.*(>: |object at 0x\w+>, |\bport=\d+\): )", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__


def _header(response: requests.Response, name: str) -> str:
    return response.headers.get(name, "").strip()
