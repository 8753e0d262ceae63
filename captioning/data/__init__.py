"""Captioned pictures on disk: found, checked, split, packed, cached and cut into batches.

Readers stream; what is known of a set lies in an index on the disk, so that memory stays flat
however many rows there are. What lives here knows pictures and captions, and trains nothing.
"""

from weights.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Batches": "captioning.data.batches",
        "FeatureCache": "captioning.data.features",
        "Index": "captioning.data.index",
        "Transform": "captioning.data.transforms",
        "open_index": "captioning.data.build",
        "pack": "captioning.data.packing",
        "read": "captioning.data.recognise",
    },
)
