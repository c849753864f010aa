"""What a run learns from: examples as tokens, and what is wrong with them."""
