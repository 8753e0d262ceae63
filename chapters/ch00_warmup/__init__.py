"""Chapter 0: the loop of this course on one small function."""

from chapters.runner.exercise import Chapter

CHAPTER = Chapter(
    title="Warm-up: edit, check, read the diagnosis",
    question="How does the course tell me what is wrong?",
    exercises=("softmax",),
)
