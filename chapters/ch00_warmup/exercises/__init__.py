"""The exercise of chapter 0: a softmax that is almost right already."""
