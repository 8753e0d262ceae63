"""Chapter 6: the whole model, its first weights and its loss."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="The whole model",
    question="How do embeddings, attention and MLPs become one GPT-2, and what is it trained on?",
    exercises=("MLP", "Block", "GPT2", "initial", "lm_loss"),
    needs=(2, 3, 5),
)
