"""Chapter 1: from text to the numbers that a language model reads, and back."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="Bytes to tokens",
    question="How does any text at all become numbers below 50,257, and come back unchanged?",
    exercises=("bytes_to_unicode", "pretokenize", "bpe", "Codec", "train_bpe"),
    needs=(0,),
)
