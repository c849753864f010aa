"""The tokenizer of a base model; no torch here."""

from pathlib import Path
from typing import Any

from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Invalid


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``.

    Raises:
        Invalid: its files cannot be used.
    """
    with importing():
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise unusable("分词器", "tokenizer", error) from error


def unusable(zh: str, en: str, error: Exception) -> Invalid:
    """The Problem of a base model whose files cannot be read."""
    return Invalid(
        f"基座模型的{zh}无法读取：{error}", f"the base model's {en} cannot be read: {error}", field="base_model"
    )
