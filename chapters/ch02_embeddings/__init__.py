"""Chapter 2: from token ids to vectors, back to scores, and many texts at once."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="Embeddings, positions, padding a batch",
    question="How do ids become vectors, and how do texts of unequal length share a batch?",
    exercises=("embed", "unembed", "pad", "positions"),
    needs=(1,),
)
