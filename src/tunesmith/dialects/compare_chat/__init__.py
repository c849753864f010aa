"""The document ``compare-chat``: one question answered by base and LoRA side by side."""
