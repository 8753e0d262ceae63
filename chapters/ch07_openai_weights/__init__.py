"""Chapter 7: OpenAI's weights, and the first graduation."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="OpenAI's weights, and graduation",
    question="How do the published numbers get into a model of my own, each into its place?",
    exercises=("read_varint", "read_entries", "read_tensor", "to_our_name", "assign"),
    needs=(6,),
)
