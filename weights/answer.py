"""What a server's answer says of a file: its length, its version, when to ask again."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime

import requests

HINTS = {
    401: "it wants a login",
    403: "access is denied: by the server, or by a proxy or firewall on the way",
    404: "it is not there",
    407: "the proxy wants a login",
    410: "it is no longer there",
}


def status_of(response: requests.Response) -> str:
    """`status 404 Not Found, wanted 200: it is not there`."""
    hint = HINTS.get(response.status_code)
    status = f"status {response.status_code} {response.reason or ''}".rstrip()
    return f"{status}, wanted 200{f': {hint}' if hint else ''}"


def extent(response: requests.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and the file's bytes where they are known."""
    if response.status_code == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
        if not found:
            raise ValueError("its partial answer does not say which part it is")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    if response.headers.get("Content-Encoding", "identity") != "identity" or not length.isdigit():
        return 0, None
    return 0, int(length)


def validator(response: requests.Response) -> str | None:
    """What names this version of the file. A weak ETag may not be asked for with If-Range."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def stated_sha256(response: requests.Response) -> str | None:
    """What Hugging Face states of a large file, in the answer that redirects to it."""
    for each in (*response.history, response):
        etag = each.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return None


def retry_after(response: requests.Response) -> float | None:
    """The header in seconds: it is a number, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def short(error: BaseException) -> str:
    """The innermost reason, without the objects that requests wraps it in."""
    while True:
        inner = getattr(error, "reason", None) or (error.args or (None,))[-1]
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = re.sub(r"^.*(>: |object at 0x\w+>, |\bport=\d+\): )", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__
