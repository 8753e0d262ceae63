"""Chapter 4: one attention head."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="One attention head",
    question="How does a token look at the tokens before it, and at none after?",
    exercises=("attention_scores", "causal_mask", "masked_softmax", "explicit_attention"),
    needs=(0,),
)
