"""A byte-level BPE tokenizer as llama.cpp knows it, or a clear word that it does not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export.tensors import read_json

if TYPE_CHECKING:
    from gguf import GGUFWriter

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_QWEN2 = _CONTRACTIONS + "\\p{N}" + _REST
_LLAMA3 = _CONTRACTIONS + "\\p{N}{1,3}" + _REST
_TEKKEN = (
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
# how text is cut before BPE, to llama.cpp's name for it and whether it then takes whole words as they are
_CUTS: Mapping[str, tuple[str, bool]] = {
    f"split {_QWEN2}; bytes": ("qwen2", False),
    f"split {_LLAMA3}; bytes": ("llama-bpe", True),
    f"split {_TEKKEN}; bytes": ("tekken", True),
    "gpt-2 words": ("gpt-2", False),
    "digits; gpt-2 words": ("smollm", False),
}
# what llama.cpp takes for the end of a turn; the first of these that ends the model's answers is written as such
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, ready to be written.

    Attributes:
        tokens: text by id, bytes written as GPT-2 writes them.
        kinds: GGUF's token type by id.
        merges: pairs in order, ``"a b"``.
        pre: llama.cpp's name of how text is cut before BPE.
        ends: ids that end an answer; the tokenizer's own first.
        adds_bos, adds_eos: put around raw text.
        template: the chat template (Jinja), or None.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: Sequence[str]
    pre: str
    bos: int | None
    ends: Sequence[int]
    pad: int | None
    adds_bos: bool
    adds_eos: bool
    template: str | None

    def describe(self, writer: "GGUFWriter") -> None:
        """Write it."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        writer.add_token_merges(self.merges)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.bos is not None:
            writer.add_bos_token_id(self.bos)
        if self.ends:
            writer.add_eos_token_id(self.ends[0])
        if (turn := self._turn_end()) is not None:
            writer.add_eot_token_id(turn)
        if self.pad is not None:
            writer.add_pad_token_id(self.pad)
        if self.template:
            writer.add_chat_template(self.template)

    def _turn_end(self) -> int | None:
        others = {self.tokens[end]: end for end in self.ends[1:]}
        known = [others[text] for text in _TURN_ENDS if text in others]
        return next(iter(known or others.values()), None)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of the model in ``folder``.

    Args:
        rows: of the embedding; ids the tokenizer does not know are written as unused.

    Raises:
        Unsupported: llama.cpp would cut the same text into other tokens.
        Invalid: its files cannot be read or do not fit the model.
    """
    raw = read_json(folder / "tokenizer.json")
    model = raw.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise Invalid(f"{folder.name} 没有可用的 tokenizer.json", f"{folder.name} has no usable tokenizer.json")
    added = {token["content"]: token for token in raw.get("added_tokens") or ()}
    ids = {**model["vocab"], **{text: token["id"] for text, token in added.items()}}
    texts = {place: text for text, place in ids.items()}
    if len(texts) != len(ids) or not texts or max(texts) >= rows:
        raise Invalid(
            f"分词器的词元（最大编号 {max(texts, default=0)}）与模型的 {rows} 行词嵌入不符",
            f"the tokenizer's ids (up to {max(texts, default=0)}) do not fit the model's {rows} embeddings",
        )
    settings, generation = read_json(folder / "tokenizer_config.json"), read_json(folder / "generation_config.json")
    ends = [ids.get(_text(settings.get("eos_token")))]
    listed = generation.get("eos_token_id", read_json(folder / "config.json").get("eos_token_id"))
    ends += listed if isinstance(listed, list) else [listed]
    bos = ids.get(_text(settings.get("bos_token")))
    adds_bos, adds_eos = _adds(folder / "tokenizer.json", bos, ends[0])
    return Vocabulary(
        tokens=[texts.get(place, f"[PAD{place}]") for place in range(rows)],
        kinds=[_kind(texts.get(place), added) for place in range(rows)],
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()],
        pre=_pre(raw, model),
        bos=bos,
        ends=list(dict.fromkeys(end for end in ends if isinstance(end, int) and 0 <= end < rows)),
        pad=ids.get(_text(settings.get("pad_token"))),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        template=read_template(folder),
    )


def read_template(folder: Path) -> str | None:
    """The chat template of the model in ``folder``, from wherever this age of transformers wrote it."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    given = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(given, list):
        given = next((entry.get("template") for entry in given if entry.get("name") == "default"), None)
    return given if isinstance(given, str) and given else None


def special_texts(folder: Path) -> dict[str, str]:
    """What templates may ask for (``bos_token``, ``eos_token``), where the tokenizer has it."""
    settings = read_json(folder / "tokenizer_config.json")
    return {name: text for name in ("bos_token", "eos_token", "pad_token") if (text := _text(settings.get(name)))}


def _pre(raw: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """llama.cpp's name of this tokenizer's way to cut text."""
    cut = _cut(raw.get("pre_tokenizer"))
    name, whole_words = _CUTS.get(cut, ("", False))
    normalizer = (raw.get("normalizer") or {}).get("type")
    odd = [key for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    if not name or model.get("type") != "BPE" or odd or normalizer not in (None, "NFC"):
        known = ", ".join(name for name, _ in _CUTS.values())
        found = json.dumps({"model": model.get("type"), "normalizer": normalizer, "pre_tokenizer": cut, "also": odd})
        raise Unsupported(
            f"llama.cpp 不认识这个分词器的切分方式；已知（字节级 BPE）：{known}。找到：{found[:400]}",
            f"llama.cpp has no name for how this tokenizer cuts text; known (byte-level BPE): {known}. "
            f"Found: {found[:400]}",
        )
    if bool(model.get("ignore_merges")) != whole_words:
        raise Unsupported(
            f"分词器的 ignore_merges 与 llama.cpp 的 {name} 不同，切分会不一样",
            f"the tokenizer's ignore_merges is not what llama.cpp does for {name}: it would cut words otherwise",
        )
    return name


def _cut(step: Any) -> str:
    """How text is cut, in one line, so that equal ways give equal lines."""
    if not isinstance(step, dict):
        return "not at all"
    kind = step.get("type")
    if kind == "Sequence":
        return "; ".join(_cut(inner) for inner in step.get("pretokenizers") or ())
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "gpt-2 words" if step.get("use_regex", True) else "bytes"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return f"split {(step.get('pattern') or {}).get('Regex')}"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    return json.dumps(step)


def _kind(text: str | None, added: Mapping[str, Mapping[str, Any]]) -> int:
    if text is None:
        return _UNUSED
    if text not in added:
        return _NORMAL
    return _CONTROL if added[text].get("special") else _USER_DEFINED


def _adds(file: Path, bos: int | None, eos: object) -> tuple[bool, bool]:
    """Whether the tokenizer puts its first token before raw text, and its last after it."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise Invalid(f"tokenizer.json 无法读取：{error}", f"tokenizer.json cannot be read: {error}") from error
    plain, around = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    for before, after in ((0, 0), (1, 0), (0, 1), (1, 1)):
        if around == [bos] * before + plain + [eos] * after:
            return bool(before), bool(after)
    raise Unsupported(
        "分词器在文本前后添加的特殊词元无法写入 GGUF", "what the tokenizer puts around raw text cannot be said in GGUF"
    )


def _text(token: Any) -> str:
    """The text of a special token, however it is written; "" for none."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""
