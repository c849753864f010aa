"""Word lists written as plain text: easier to read and to extend than rows of quotes."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """The words of a text that are separated by white space."""
    return text.split()


def listed(text: str) -> list[str]:
    """The entries of a text that are separated by commas."""
    return text.split(",")


def pairs(text: str) -> dict[str, str]:
    """The table of a text such as ``France:Paris,Japan:Tokyo``."""
    table = {}
    for entry in text.split(","):
        key, value = entry.split(":")
        table[key] = value
    return table
