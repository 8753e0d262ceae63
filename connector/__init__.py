"""From a picture to vectors of the language model's width: preprocess, vision, dense, reduce.

Knows CLIP and the Dense Connector, nothing of GPT-2; `weights` is used by the loader alone.
"""

from weights.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ClipVision": "connector.vision",
        "Connector": "connector.connector",
        "ConnectorConfig": "connector.config",
        "DenseConnector": "connector.dense",
        "ReducerConfig": "connector.config",
        "TokenReducer": "connector.reduce",
        "VisionConfig": "connector.config",
    },
)
