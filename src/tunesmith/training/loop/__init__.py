"""The training loop: packed examples, fused LoRA, losses a block of the vocabulary at a time (torch)."""
