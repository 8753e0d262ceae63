"""Chapter 5: many heads, padding and -inf."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="Many heads, padding and -inf",
    question="How do many heads share one token, and what does one do that has nothing to see?",
    exercises=(
        "split_heads",
        "merge_heads",
        "hidden_positions",
        "safe_softmax",
        "openai_softmax",
        "MultiHeadAttention",
    ),
    needs=(3, 4),
)
