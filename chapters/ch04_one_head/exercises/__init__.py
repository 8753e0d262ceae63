"""The exercises of chapter 4: scores, mask, softmax, mix."""
