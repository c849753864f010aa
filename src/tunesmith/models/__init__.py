"""Base models and adapters: what they are called, where they lie, whether they fit together."""
