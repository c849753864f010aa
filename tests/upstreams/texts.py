"""What the upstreams say: text that is awkward on purpose, and the same for whoever asks with the same numbers."""

import random
from collections.abc import Iterator

_PIECES = (
    "你好",
    "，",
    "世界",
    "🌍",
    " hello",
    " the",
    "学习率",
    "。",
    " model",
    "👩‍🚀",
    " LoRA",
    "\n",
    "“微调”",
    " é",
    '"',
    "\\",
    "\n\ndata: ",
    "</script>",
    "\u2028",
    "𠮷",
)


def tokens(seed: int, count: int) -> Iterator[str]:
    """``count`` tokens of mixed Chinese, ASCII and emoji; they depend on ``seed`` and position only."""
    dice = random.Random(seed)
    return (dice.choice(_PIECES) for _ in range(count))


def text(seed: int, count: int) -> str:
    """What ``tokens`` come to."""
    return "".join(tokens(seed, count))
