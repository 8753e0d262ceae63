"""transformers, for `verify`: the other implementation that reads the same files on its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def import_transformers() -> ModuleType:
    """The library, which only those need who compare with it; ValueError where it is not there."""
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "transformers is not installed, wanted for --against transformers."
            " Run: pip install 'transformers>=5,<6', or leave --against out."
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
