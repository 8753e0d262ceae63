"""From a picture to vectors of the language model's width: preprocess, vision, dense, reduce.

Knows CLIP and the Dense Connector, nothing of GPT-2; `weights` is used by what reads and judges
files alone.
"""

try:
    from weights.lazy import lazy_exports
    from weights.siblings import check_siblings
except ImportError as error:
    from importlib.util import find_spec

    raise ImportError(
        "`connector` needs the `weights` package that lies beside it, but Python finds "
        f"{find_spec('weights')}. Start Python in another folder, or rename that one."
    ) from error

check_siblings(__file__)
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
