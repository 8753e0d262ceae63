"""`weights`, `connector` and `chapters` are common names: see that Python found ours."""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("weights", "gpt2_scratch", "connector", "captioning", "chapters")


def check_siblings(init: str) -> None:
    """Raise ImportError where Python would take a sibling of the package `init` from another tree.

    `init` is the `__file__` of its __init__.py. Asks where each sibling lies, and loads none.
    """
    package, tree = Path(init).resolve().parent.name, Path(init).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:  # the import that needs it will say so
            continue
        # A folder without __init__.py can be imported too; it has places and no origin.
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or ())))
        if found.resolve() != tree / name / "__init__.py":
            raise ImportError(
                f"`{package}` wants the `{name}` beside it in {tree}, but Python finds {found}. "
                "Start Python in another folder, take that one off PYTHONPATH, or rename it."
            )
