"""The course: text and exercises on every part of the code. No model code lives here.

Any package may be imported from here; none imports this one.
"""

import os
import sys

# `python -m chapters` is typed in a workspace, and puts that before everything else: a file there
# that is called random.py would be taken for Python's own.
_TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [_TREE]:
    del sys.path[0]

try:
    from weights.siblings import check_siblings
except ImportError as error:
    from importlib.util import find_spec

    raise ImportError(
        f"`chapters` needs the `weights` package that lies beside it, but Python finds "
        f"{find_spec('weights')}. Start Python in another folder, or rename that one."
    ) from error

check_siblings(__file__)
