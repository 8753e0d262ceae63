"""`list`, `path` and `check`: what there is, where it lies, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import tyro

from weights.cache import cache_folder, folder_of, locate, missing_files
from weights.manifest import Source, entries
from weights.store import embedded

Name = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help="one that `list` shows")
]
Whose = Annotated[
    str | None, tyro.conf.arg(metavar="NAME", help="whose files, of those that `list` shows")
]


def list_() -> None:
    """Print what comes with the code, what can be fetched, its size, and what of it is here.

    A name without --source is its first line: python -m weights fetch gpt2-large.
    """
    print("Comes with the code:")
    root = embedded("")
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file()}):
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        print(f"  {_mib(size)}  {folder.relative_to(root).as_posix()}")
    print(f"\nCan be fetched, into {cache_folder()}:")
    for entry in entries().values():
        for source in entry.sources:
            option = "" if len(entry.sources) == 1 else f"--source {source.name}"
            columns = f"{entry.name:<18} {option:<21} {source.layout:<21} {_state(source)}"
            print(f"  {_mib(source.expected)}  {columns}")


def path(name: Name, source: Whose = None) -> None:
    """Print the folder that holds the files of NAME, of any source or of the one given.

    Exit code 2 where they are not there, or not all of them.
    """
    print(locate(name, source))


def check(name: Name, source: Whose = None) -> int:
    """Read every byte of NAME: sizes, hashes, and whether each file is what it claims to be.

    Exit code 0 when all is well, 1 when a file is missing or wrong, 2 when nothing is there.
    """
    from weights.check import check as check_files

    folder, findings = check_files(name, source)
    print(folder)
    wrong = 0
    for finding in findings:
        wrong += not finding.good
        print(
            f"  {'ok   ' if finding.good else 'WRONG'}  {finding.file}: {finding.text}", flush=True
        )
    if wrong:
        print(f"{wrong} wrong. Run: python -m weights fetch {name} (what is whole stays)")
    return int(wrong > 0)


def _mib(size: int) -> str:
    return f"{size / 2**20:8.2f} MiB"


def _state(source: Source) -> str:
    """What of it is here."""
    folder = folder_of(source)
    missing = missing_files(source)
    if not missing:
        return "here"
    arrived = sum(f.stat().st_size for f in folder.glob("*.part"))
    if len(missing) < sum(not file.optional for file in source.files) or arrived:
        part = f" ({_mib(arrived).strip()} of it arrived)" if arrived else ""
        return f"begun, lacks {', '.join(file.name for file in missing)}{part}"
    return "-"
