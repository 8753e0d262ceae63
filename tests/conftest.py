import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# The same examples everywhere, however slow the machine: what is red is red for everybody.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

# A shell's `&` leaves Ctrl-C ignored, for all that is started from here; tests send it to programs.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of this checkout."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the originals on random weights, which come with the code."""
    return ROOT / "weights" / "embedded" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs, captions and GPT-2's vocabulary: beside the checkout, never in it."""
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no {folder}. Run: SHARED_DIR=FOLDER make test")
    return folder
