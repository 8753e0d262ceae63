"""The exercises of chapter 7: numbers, keys, tensors, names, and into the model."""
