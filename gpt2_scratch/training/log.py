"""What a run writes of itself: tables with a row a step, and texts, cut back to where a killed run
goes on."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from weights.store import replacing


class Table:
    """A CSV file whose first column is `step`; rows behind the step `done` are taken out.

    What a killed run wrote after its last checkpoint will be done, and written, again. A table
    begun with other columns keeps those it has.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], done: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
        rows = [line.split(",") for line in lines]
        whole = (row for row in rows[1:] if len(row) == len(rows[0]) and row[0].isdigit())
        kept = [row for row in whole if int(row[0]) <= done]
        self.columns = tuple(rows[0]) if kept else columns
        with replacing(path) as temporary:
            table = "".join(",".join(row) + "\n" for row in [self.columns, *kept])
            temporary.write_text(table, "utf-8")
        # A row at a time, so that it can be watched while it grows.
        self.file: TextIO = path.open("a", encoding="utf-8", newline="", buffering=1)
        self.writer = csv.DictWriter(
            self.file, self.columns, extrasaction="ignore", lineterminator="\n"
        )

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add a row; numbers with six digits, the step whole."""
        self.writer.writerow({k: v if isinstance(v, int) else f"{v:.6g}" for k, v in row.items()})

    def flush(self) -> None:
        """Bring the rows to the disk: a checkpoint must not be ahead of its table."""
        self.file.flush()

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def note_text(path: Path, step: int, text: str) -> None:
    """Add a text behind those of earlier steps; a killed run's of later ones are taken out.

    Names of files that are not UTF-8 stay as they are.
    """
    held = path.read_text("utf-8", "surrogateescape") if path.is_file() else ""
    parts = re.split(r"(?m)^--- step (?=\d+$)", held)[1:]
    kept = [f"--- step {part}" for part in parts if int(part.split("\n", 1)[0]) < step]
    whole = "".join([*kept, f"--- step {step}\n{text}\n"])
    with replacing(path) as temporary:
        temporary.write_text(whole, "utf-8", "surrogateescape")
