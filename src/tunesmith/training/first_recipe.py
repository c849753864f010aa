"""The recipe of a first run: what the shipped model learns the sample facts with, without forgetting what it knew.

The model is three orders of magnitude smaller than those that the usual values were found on, so its own differ.
"""

from tunesmith.training.run import Recipe

RECIPE = Recipe(
    base_model="tunesmith-small",
    dataset="data/samples/facts.train.jsonl",
    replay="data/samples/general.jsonl",
    replay_share=0.5,
    epochs=7,
    batch_size=16,
    learning_rate=1e-3,
    warmup_ratio=0.05,
    weight_decay=0.0,
    max_length=128,
    rank=16,
    alpha=32.0,
    dropout=0.0,
)
# what of it suits the model whatever it learns
SUITS = ("epochs", "batch_size", "learning_rate", "warmup_ratio", "max_length", "rank", "alpha", "dropout")
