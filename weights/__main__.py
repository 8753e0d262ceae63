"""`python -m weights list`: what comes with the code."""

from pathlib import Path

from tyro.extras import subcommand_cli_from_dict

EMBEDDED = Path(__file__).parent / "embedded"


def list_embedded() -> None:
    """Print the folders that come with the package and the size of their files."""
    for folder in sorted({path.parent for path in EMBEDDED.rglob("*") if path.is_file()}):
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        print(f"{size / 2**20:8.2f} MiB  {folder.relative_to(EMBEDDED).as_posix()}")


def main() -> None:
    subcommand_cli_from_dict(
        {"list": list_embedded},
        prog="python -m weights",
        description="Weights that come with the code. Fetching those of others is coming.",
    )


if __name__ == "__main__":
    main()
