"""Losses as text and as a picture."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.training.curve import draw, sparkline


def test_a_falling_loss_falls_in_the_sparkline() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"


def test_many_losses_are_averaged_into_the_width() -> None:
    assert sparkline([4.0] * 50 + [0.0] * 50, 2) == "█▁"


@pytest.mark.parametrize("losses", [[], [math.nan], [math.inf, math.nan]])
def test_no_losses_give_no_sparkline(losses: list[float]) -> None:
    assert sparkline(losses, 10) == ""


@given(st.lists(st.floats(0, 100), min_size=1), st.integers(1, 80))
def test_a_sparkline_is_never_wider_than_asked(losses: list[float], width: int) -> None:
    line = sparkline(losses, width)
    assert len(line) == min(width, len(losses)) and set(line) <= set("▁▂▃▄▅▆▇█")


@pytest.mark.parametrize("validation", [[], [(5, 2.0), (10, 1.5)]])
def test_the_picture_is_a_png_of_some_size(tmp_path: Path, validation: list[tuple[int, float]]) -> None:
    from PIL import Image

    draw(tmp_path / "loss.png", [(n, 10 / n) for n in range(1, 11)], validation, "适配器 town")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert len(picture.convert("L").getcolors(256) or []) > 10  # something is drawn
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
