"""Caption metrics: captions and their references in, numbers and their uncertainty out.

BLEU, CIDEr and ROUGE-L are written out here; WER is jiwer's, BLEU with method 7 is nltk's. Nothing
in here knows of models or pictures. METEOR is left out, since none in pure Python is it: METEOR 1.5
needs Java and its paraphrase table, and nltk's `meteor_score` is that of 2005, on WordNet data that
has to be fetched, whose values differ.
"""

from typing import TYPE_CHECKING

from weights.lazy import lazy_exports

if TYPE_CHECKING:
    from captioning.metrics.intervals import bootstrap, compare
    from captioning.metrics.measure import Measure
    from captioning.metrics.ptb import tokenize
    from captioning.metrics.scoring import measures, score

__all__ = ["Measure", "bootstrap", "compare", "measures", "score", "tokenize"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Measure": "captioning.metrics.measure",
        "bootstrap": "captioning.metrics.intervals",
        "compare": "captioning.metrics.intervals",
        "measures": "captioning.metrics.scoring",
        "score": "captioning.metrics.scoring",
        "tokenize": "captioning.metrics.ptb",
    },
)
