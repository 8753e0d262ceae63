"""The exercises of chapter 5: heads apart and together, masks, rows with nothing to see."""
