"""The course: text and exercises on every part of the code. No model code lives here.

Any package may be imported from here; none imports this one.
"""

try:
    from weights.siblings import check_siblings
except ImportError as error:
    from importlib.util import find_spec

    raise ImportError(
        f"`chapters` needs the `weights` package that lies beside it, but Python finds "
        f"{find_spec('weights')}. Start Python in another folder, or rename that one."
    ) from error

check_siblings(__file__)
