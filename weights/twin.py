"""transformers, for `verify`: the other implementation that reads the same files on its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def import_transformers(
    wanted: str = "for --against transformers", instead: str = ", or leave --against out"
) -> ModuleType:
    """The library, which only those need who compare with it; ValueError where it is not there."""
    try:
        import transformers
    except ImportError:
        raise ValueError(
            f"transformers is not installed, wanted {wanted}."
            f" Run: pip install 'transformers>=5,<6'{instead}."
        ) from None
    return transformers


@contextmanager
def quietly(transformers: ModuleType) -> Iterator[None]:
    """Without its progress bar, and its advice on what verifying does not need."""
    logging = transformers.utils.logging
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
