"""The scenes world: pictures this project draws, their captions, and what a caption says.

`draw` makes the pictures, `facts` writes and reads the captions; neither knows of any model.
"""

from weights.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Layout": "captioning.scenes.draw",
        "Scene": "captioning.scenes.draw",
        "compose": "captioning.scenes.draw",
        "draw": "captioning.scenes.draw",
        "write_scenes": "captioning.scenes.draw",
        "Score": "captioning.scenes.facts",
        "describe": "captioning.scenes.facts",
        "explain": "captioning.scenes.facts",
        "read_facts": "captioning.scenes.facts",
        "score_facts": "captioning.scenes.facts",
        "summarise": "captioning.scenes.facts",
    },
)
