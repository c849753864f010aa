"""Which model of an upstream a client means: short names made whole, wrong letter case mended, strangers refused."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid

How = Literal["asked", "alias", "listed", "document", "default"]

MOST_CHARACTERS = 200
# the models the document lists; their short names mean these, whoever else offers a model of that name
DOCUMENT = (
    "mistralai/mistral-7b-instruct",
    "meta-llama/llama-2-7b-chat",
    "google/gemma-7b-it",
    "microsoft/phi-2",
    "nousresearch/nous-hermes-llama2-7b",
    "openchat/openchat-3.5",
    "anthropic/claude-3-haiku",
    "meta-llama/llama-2-13b-chat",
    "microsoft/phi-3-mini-4k-instruct",
    "microsoft/phi-3-mini-128k-instruct",
)
_DOCUMENT = {full.partition("/")[2]: full for full in DOCUMENT}
_HOSTS = frozenset({"registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co"})
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One model an upstream offers.

    Attributes:
        id: what the upstream is asked for.
        name: what people read; may be empty.
        aliases: other ids of the same model.
        context_length: most tokens of prompt and answer together.
        prompt_usd, completion_usd: the price of one token.
        size_bytes: on disk.
        modified: when it was last changed, as the upstream writes it.
        loaded: it is in memory now.
    """

    id: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    prompt_usd: float | None = None
    completion_usd: float | None = None
    size_bytes: int | None = None
    modified: str | None = None
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """The model to ask the upstream for.

    Attributes:
        how: "asked" is the client's own word; "listed" was found in the upstream's list, "document" in the document's;
            "default" stands in for a name that was not given, not known or not clear.
        candidates: the listed models it could have meant, where that was not clear; sorted.
    """

    model: str
    how: How
    candidates: tuple[str, ...] = ()


def hosted(asked: str | None, listed: Sequence[Listed], default: str) -> Resolved:
    """The OpenRouter model a client means by ``asked``; the first rule that fits decides.

    1. None or blank: ``default``.
    2. With a ``/`` it is a full id and passes as it is. One that holds capitals, and equals exactly one listed id but
       for its letter case, becomes that id.
    3. One of the ten short names of the document, in any letter case: the document's id.
    4. Exactly one listed id or alias.
    5. The part after the last ``/`` of a listed id, in any letter case; then the same of aliases. The variant
       (``:free``) need not be named: the one named is preferred, then the one without any, then those that are not
       ``:free``. Several providers with that name at the same rank are not clear.
    6. A short name of the document with a variant nobody lists: the document's id.
    7. ``default``, with the candidates where it was not clear.

    Raises:
        Invalid: ``asked`` is longer than 200 characters or holds characters that no name has.
    """
    name = _checked(asked)
    if not name:
        return Resolved(default, "default")
    low = name.lower()
    if "/" in name and name == low:
        return Resolved(name, "asked")
    if "/" in name:
        same = {each.id for each in listed if each.id.lower() == low}
        mended = len(same) == 1 and name not in same
        return Resolved(same.pop(), "listed") if mended else Resolved(name, "asked")
    if low in _DOCUMENT:
        return Resolved(_DOCUMENT[low], "document")
    exact = {each.id for each in listed if name == each.id or name in each.aliases}
    found = exact if len(exact) == 1 else _by_short_name(low, ((each.id, each.id) for each in listed))
    if not found:
        found = _by_short_name(low, _aliases(listed))
    if len(found) == 1:
        return Resolved(found.pop(), "listed")
    stem = low.partition(":")[0]
    if stem in _DOCUMENT:
        return Resolved(_DOCUMENT[stem], "document")
    return Resolved(default, "default", tuple(sorted(found)))


def needs_list(asked: str | None) -> bool:
    """Whether `hosted` may answer differently with another list; where not, no list is worth waiting for."""
    try:
        name = _checked(asked)
    except Invalid:
        return False
    return bool(name) and (name != name.lower() if "/" in name else name.lower() not in _DOCUMENT)


def local(asked: str | None, listed: Sequence[Listed], default: str | None) -> Resolved | None:
    """The Ollama model a client means by ``asked``: ``[[host/]namespace/]name[:tag]``; the first rule that fits decides.

    1. A listed name, exactly; then with ``:latest`` where no tag is given; then the same in any letter case.
       ``registry.ollama.ai/library/`` in front means nothing, as to Ollama.
    2. The name of exactly one listed model without its tag, where no tag is given.
    3. ``default``, with the candidates where several fit; it is made whole by rule 1.
    4. Without ``default`` a listed model: one that is in memory, else the first.

    An unlisted name is never sent.

    Args:
        listed: the models on that machine that can chat, newest first, as Ollama lists them.

    Returns:
        None when nothing is listed and there is no default.

    Raises:
        Invalid: ``asked`` is longer than 200 characters, holds characters that no name has, or names a registry other
            than Ollama's and Hugging Face's: Ollama would call it.
    """
    name = _checked(asked)
    _refuse_strangers(name, "model")
    ids = tuple(dict.fromkeys(each.id for each in listed))
    found = _installed(name, ids) if name else ()
    if len(found) == 1:
        return Resolved(found[0], "listed")
    candidates = tuple(sorted(found))
    if default:
        own = _installed(default, ids)
        return Resolved(own[0] if len(own) == 1 else default, "default", candidates)
    chosen = next((each.id for each in listed if each.loaded), ids[0] if ids else None)
    return Resolved(chosen, "default", candidates) if chosen else None


def pull_name(text: str) -> str:
    """``text`` without blanks around it, a name that Ollama may fetch: ``[host/][namespace/]name[:tag]``.

    Raises:
        Invalid: it is no such name, or names a registry other than Ollama's and Hugging Face's.
    """
    name = _checked(text, "model_name")
    _refuse_strangers(name, "model_name")
    path, tag = _split(name)
    parts = path.split("/")
    # Ollama takes the first of three parts for the host; the namespace alone may not hold a dot
    good = len(parts) <= 3 and all(_PART.fullmatch(part) for part in (*parts, *((tag,) if tag is not None else ())))
    if not good or (len(parts) > 1 and "." in parts[-2]):
        raise Invalid(
            "model_name 应形如 qwen3、qwen3:8b、user/name:tag 或 hf.co/user/name:tag",
            "model_name must look like qwen3, qwen3:8b, user/name:tag or hf.co/user/name:tag",
            field="model_name",
        )
    return name


def _checked(text: str | None, field: str = "model") -> str:
    if text is None:
        return ""
    if len(text) > MOST_CHARACTERS or UNPRINTABLE.search(text):
        raise Invalid(
            f"{field} 应为至多 {MOST_CHARACTERS} 个可见字符",
            f"{field} must be at most {MOST_CHARACTERS} printable characters",
            field=field,
        )
    return text.strip()


def _by_short_name(low: str, names: Iterable[tuple[str, str]]) -> set[str]:
    """The ids of best rank among ``(name, id)`` whose name ends in ``low``, with or without a variant."""
    stem, _, variant = low.partition(":")
    ranked: dict[int, set[str]] = {}
    for name, listed_id in names:
        whole = name.lower()
        if stem not in whole:  # of some hundred names nearly all: looked at no further
            continue
        own_stem, _, own = whole.rpartition("/")[2].partition(":")
        if own_stem == stem:
            rank = 0 if own == variant else 1 if not own else 3 if own == "free" else 2
            ranked.setdefault(rank, set()).add(listed_id)
    return ranked[min(ranked)] if ranked else set()


def _aliases(listed: Sequence[Listed]) -> Iterator[tuple[str, str]]:
    """Alias and id; a model and its ``:free`` variant share an alias, which then wears the variant of the id."""
    for each in listed:
        for alias in each.aliases:
            plain = ":" in alias or ":" not in each.id
            yield (alias if plain else alias + each.id[each.id.index(":") :]), each.id


def _installed(name: str, ids: Sequence[str]) -> tuple[str, ...]:
    """The listed names that ``name`` fits best: one, none, or several that it fits equally well."""
    if name in ids:
        return (name,)
    whole = _with_tag(name)
    low = whole.lower()
    found = tuple(other for other in ids if _with_tag(other) == whole)
    found = found or tuple(other for other in ids if _with_tag(other).lower() == low)
    if found or _split(name)[1] is not None:
        return found
    path = _split(low)[0]
    return tuple(other for other in ids if _split(_with_tag(other).lower())[0] == path)


def _with_tag(name: str) -> str:
    """``name`` without what Ollama adds by itself in front, and with the tag it adds behind."""
    path, tag = _split(name)
    return f"{path.removeprefix('registry.ollama.ai/').removeprefix('library/')}:{tag or 'latest'}"


def _split(name: str) -> tuple[str, str | None]:
    """Path and tag; a colon before the last slash belongs to a host's port."""
    path, colon, tag = name.rpartition(":")
    return (path, tag) if colon and "/" not in tag else (name, None)


def _refuse_strangers(name: str, field: str) -> None:
    first, *rest = _split(name)[0].lower().split("/")
    # with two slashes Ollama takes any first part for a host, a bare machine name too
    host = len(rest) > 1 or (len(rest) == 1 and ("." in first or ":" in first or first == "localhost"))
    if host and first not in _HOSTS:
        raise Invalid(
            f"{field} 不能指定其他模型仓库；只接受 Ollama 与 hf.co 的模型",
            f"{field} must not name another registry; only models of Ollama and hf.co are taken",
            field=field,
        )
