"""The exercises of chapter 1: bytes, pieces, merges, ids, and how merges are learned."""
