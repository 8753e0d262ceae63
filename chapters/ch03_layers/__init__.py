"""Chapter 3: the pieces that work on each token by itself."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="Layer norm, GELU, OpenAI's linear layer",
    question="What happens to each token by itself, exactly?",
    exercises=("layer_norm", "gelu", "Conv1D", "LayerNorm"),
)
