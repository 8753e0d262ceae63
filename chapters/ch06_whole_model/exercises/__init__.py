"""The exercises of chapter 6: MLP, block, model, first weights, loss."""
