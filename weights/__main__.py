"""`python -m weights list`: what comes with the code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyro.extras import subcommand_cli_from_dict

from weights.console import run_command
from weights.store import embedded


def list_embedded() -> None:
    """Print the folders that come with the package and the size of their files."""
    root = embedded("")
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file()}):
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        print(f"{size / 2**20:8.2f} MiB  {folder.relative_to(root).as_posix()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    return run_command(
        lambda: subcommand_cli_from_dict(
            {"list": list_embedded},
            prog="python -m weights",
            description="Weights that come with the code. Fetching those of others is coming.",
            args=argv,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
