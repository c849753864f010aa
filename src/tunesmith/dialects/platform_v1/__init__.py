"""The document ``platform-v1``: login, rate limits, training, generation, models, datasets."""
