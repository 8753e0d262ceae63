"""Where the numbers come from: what is embedded, what can be fetched, and how it is read.

The ground floor: it knows no model and imports none of the other packages.
"""

from weights.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "cache_folder": "weights.cache",
        "locate": "weights.cache",
        "model_folder": "weights.cache",
        "read_checkpoint": "weights.tf_checkpoint",
    },
)
