"""Tunesmith fine-tunes language models with LoRA and shows that it helped."""

__version__ = "0.1.0"
