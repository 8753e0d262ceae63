"""The exercises of chapter 2: into vectors, out of them, a batch of texts, their positions."""
