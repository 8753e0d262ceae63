"""The captioner: CLIP's tower, the connector and GPT-2 joined, and what is done with them.

Parts come from `connector` and `gpt2_scratch`; what lives here needs both.
"""

from typing import TYPE_CHECKING

try:
    from weights.lazy import lazy_exports
    from weights.siblings import check_siblings
except ImportError as error:
    from importlib.util import find_spec

    raise ImportError(
        f"`captioning` needs the `weights` package that lies beside it, but Python finds "
        f"{find_spec('weights')}. Start Python in another folder, or rename that one."
    ) from error

if TYPE_CHECKING:
    from captioning.model import Caption, Captioner, load_captioner

__all__ = ["Caption", "Captioner", "load_captioner"]

check_siblings(__file__)
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Caption": "captioning.model",
        "Captioner": "captioning.model",
        "load_captioner": "captioning.model",
    },
)
