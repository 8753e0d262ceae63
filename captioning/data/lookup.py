"""Picture files found by id or name below one folder, and nothing outside it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from captioning.data.rows import Bad, Place, Side, shorten, side_of
from captioning.pictures import EXTENSIONS

# The usual ones first: each is a question to the file system.
SUFFIXES = (".jpg", ".png", ".jpeg", ".webp", ".gif", ".bmp", ".JPG", ".JPEG", ".PNG", "")
COCO_DIGITS = 12  # 139 lies in 000000000139.jpg
DEEP = 2  # levels of subfolders that are searched: images/train2017


class Pictures:
    """The pictures of a folder. It is never listed as a whole: half a million names may lie there.

    An id is looked for in the folder itself and in its subfolders, those of its split first.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder, wanted the one with the pictures; name it with --images."
            )
        self.root = os.path.realpath(folder)
        self._starts = [os.path.join(f, "") for f in (self.root, os.path.abspath(folder))]
        inside, self._links = _subfolders(self.root, self.root, DEEP)
        self._folders: dict[Side | None, list[str]] = {None: [self.root, *inside]}

    def below(self, name: str) -> str:
        """A path that begins with this folder's as the path below it; other names as they are."""
        for start in self._starts:
            if name.startswith(start) and name != start:
                return name[len(start) :]
        return name

    def find(self, image: str, split: Side | None = None) -> Place:
        """Where the picture of an id lies. Bad("outside") or Bad("missing")."""
        if leaves(image):
            raise Bad("outside", f"image id {shorten(image)} leads out of {self.folder}")
        known = os.path.splitext(image)[1].lower() in EXTENSIONS
        names = [image] if known else [image + suffix for suffix in SUFFIXES]
        if image.isascii() and image.isdecimal():
            names += [image.zfill(COCO_DIGITS) + suffix for suffix in SUFFIXES]
        refused = None
        for folder in self._in_order(split):
            for name in names:
                path = f"{folder}{os.sep}{name}"
                try:
                    mode = os.lstat(path).st_mode
                except (OSError, ValueError):  # not there; too long a name; a NUL in it
                    continue
                if stat.S_ISREG(mode) and "/" not in name and os.sep not in name:
                    return Place(path)
                if not self._inside(path):
                    refused = Bad("outside", f"{path} is a link out of {self.folder}")
                elif os.path.isfile(path):  # not a folder, a pipe or a device
                    return Place(path)
        reason = f"no picture {shorten(image)} in {self.folder}"
        if self._links:
            reason += f"; {self._links[0]} is a link out of it, not searched: name it by --images"
        raise refused or Bad("missing", reason)

    def _in_order(self, split: Side | None) -> list[str]:
        if split not in self._folders:
            self._folders[split] = sorted(
                self._folders[None], key=lambda folder: side_of(folder[len(self.root) :]) != split
            )
        return self._folders[split]

    def _inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(os.path.join(self.root, ""))


def leaves(name: str) -> bool:
    """Whether a name is absolute or climbs: `../x`, `/x`, `C:x`, `a\\..\\..\\x`."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", name) is not None


def _subfolders(folder: str, root: str, depth: int) -> tuple[list[str], list[str]]:
    """The folders below, sorted, and those that are links out; hidden ones are passed over."""
    found: list[str] = []
    links: list[str] = []
    if not depth:
        return found, links
    with os.scandir(folder) as entries:
        names = [e.path for e in entries if not e.name.startswith(".") and e.is_dir()]
    for path in sorted(names):
        real = os.path.realpath(path)
        if real == path or real.startswith(os.path.join(root, "")):
            below, out = _subfolders(path, root, depth - 1)
            found += [path, *below]
            links += out
        elif real != root:  # that one would go round in a circle
            links.append(path)
    return found, links
