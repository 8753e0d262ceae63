"""The exercises of chapter 3: a norm, an activation, a linear layer, and the norm as a module."""
