"""GPT-2 by hand: configuration, model, cache, tokenizer, sampling, generation, training.

Knows nothing of pictures. The model itself is one file, `model.py`, read downwards.
"""

from typing import TYPE_CHECKING

try:
    from weights.lazy import lazy_exports
    from weights.siblings import check_siblings
except ImportError as error:
    from importlib.util import find_spec

    raise ImportError(
        f"`gpt2_scratch` needs the `weights` package that lies beside it, but Python finds "
        f"{find_spec('weights')}. Start Python in another folder, or rename that one."
    ) from error

if TYPE_CHECKING:
    from gpt2_scratch.cache import KVCache
    from gpt2_scratch.config import GPT2Config
    from gpt2_scratch.generate import generate, stream
    from gpt2_scratch.loader import load_gpt2, save_gpt2
    from gpt2_scratch.model import GPT2

__all__ = ["GPT2", "GPT2Config", "KVCache", "generate", "load_gpt2", "save_gpt2", "stream"]

check_siblings(__file__)
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GPT2": "gpt2_scratch.model",
        "GPT2Config": "gpt2_scratch.config",
        "KVCache": "gpt2_scratch.cache",
        "generate": "gpt2_scratch.generate",
        "load_gpt2": "gpt2_scratch.loader",
        "save_gpt2": "gpt2_scratch.loader",
        "stream": "gpt2_scratch.generate",
    },
)
