"""The data doctor: looks every example over as it is made into tokens, and once only. No torch here.

Time is linear in the data, memory is some 300 bytes an example: two 64-bit marks of what it says, folded as the splits
are (case, width and white space do not count), and the line it stands on.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tunesmith.datasets.example import Example, Message, Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference
from tunesmith.datasets.worker.converting import folded, prompt_mark
from tunesmith.kernel.problems import Invalid
from tunesmith.training.data.encoding import Cut, Encoded, Encoder
from tunesmith.training.data.findings import Finding, Kind, Level, Part, Report, Role, Spread, histogram
from tunesmith.training.data.pairs import EncodedPair, encode_pair

_Row = TypeVar("_Row")
_Tokens = TypeVar("_Tokens")
LISTED = 20  # findings of one kind named in one part
_SERVED = 8  # examples of a part whose prompt is rendered as serving renders it
_SHOWN = 60  # characters of a text in a message
_WHOLE = 1 << 30  # a max_length that cuts nothing


@dataclass(slots=True)
class Examined:
    """What is found in one part, while it is looked over.

    Attributes:
        keep: how many of the first rows are kept in ``first``.
        look, look_pair: is to be handed each example, or preference, that can be learned; ``Doctor.part`` sets them.
    """

    label: str
    role: Role
    keep: int
    findings: list[Finding] = field(default_factory=list)
    first: list[Example | Preference] = field(default_factory=list)
    bad: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    rejected: Counter[int] = field(default_factory=Counter)
    learned: Counter[int] = field(default_factory=Counter)
    prompts: dict[bytes, int] = field(default_factory=dict)
    said: dict[bytes, int] = field(default_factory=dict)
    listed: Counter[str] = field(default_factory=Counter)
    served: int = 0
    look: Callable[[Example, Encoded], None] = lambda example, encoded: None
    look_pair: Callable[[Preference, EncodedPair], None] = lambda preference, pair: None

    def note(
        self, level: Level, kind: Kind, source: Source, where: str, zh: str, en: str, *, most: int = LISTED
    ) -> None:
        """Name a finding, unless ``most`` of its kind were named already."""
        if self.listed[kind] < most:
            self.findings.append(Finding(level, kind, self.label, source.file, source.line or None, where, zh, en))
        self.listed[kind] += 1

    def refuse(self, row: BadRow) -> None:
        """Count a row that cannot be learned."""
        self.bad += 1
        self.note("error", "bad", row.source, row.field, row.zh, row.en)

    def part(self, max_length: int) -> Part:
        """What was found."""
        counts = self.counts
        return Part(
            label=self.label,
            role=self.role,
            examples=self.lengths.total(),
            bad=self.bad,
            duplicates=counts["duplicates"],
            alike=counts["alike"],
            leaks=counts["leaks"],
            cut=counts["cut"],
            cut_learning=counts["cut_learning"],
            cut_tokens=counts["cut_tokens"],
            cut_learned=counts["cut_learned"],
            answers_lost=counts["answers_lost"],
            endless=counts["endless"],
            empty_thoughts=counts["empty_thoughts"],
            tokens=Spread.of(self.lengths),
            learned=Spread.of(self.learned),
            lengths=histogram(self.lengths, max_length),
            rejected=Spread.of(self.rejected),
            rejected_lengths=histogram(self.rejected, max_length),
            same=counts["same"],
            contrary=counts["contrary"],
        )


class Doctor:
    """Looks over the parts of a run's data, one after the other: what is trained on first, what is held out after it.

    Args:
        ends: the tokens at which serving ends an answer, see ``end_tokens``.
        keep: examples of each part kept for a preview.
    """

    def __init__(self, encoder: Encoder, base: str, max_length: int, ends: frozenset[int], *, keep: int = 0) -> None:
        self._encoder, self._base, self._max_length, self._ends = encoder, base, max_length, ends
        self._keep = keep
        self._parts: list[Examined] = []
        self._last: Counter[int] = Counter()

    def part(self, label: str, role: Role) -> Examined:
        """A part to be looked over; its ``look`` or ``look_pair`` is to be handed each row that can be learned."""
        examined = Examined(label, role, self._keep)
        before = [part for part in self._parts if _held_out(examined.role, part.role)]
        self._parts.append(examined)
        examined.look = lambda example, encoded: self._look(examined, before, example, encoded)
        examined.look_pair = lambda preference, pair: self._look_pair(examined, before, preference, pair)
        return examined

    def examine(
        self, examples: Callable[[Callable[[BadRow], None]], Iterable[Example]], label: str, role: Role
    ) -> Examined:
        """Look over a part that nobody else makes into tokens.

        Args:
            examples: gives them, when handed what takes the bad rows. A file that cannot be read on is a finding.

        Raises:
            NotFound, Forbidden: the file is not there, or may not be read.
        """
        examined = self.part(label, role)
        _examine(examined, examples, self._encoder.encode, examined.look)
        return examined

    def examine_pairs(
        self, preferences: Callable[[Callable[[BadRow], None]], Iterable[Preference]], label: str, role: Role
    ) -> Examined:
        """Look over a part of preferences; otherwise as ``examine``."""
        examined = self.part(label, role)
        _examine(examined, preferences, lambda row: encode_pair(row, self._encoder), examined.look_pair)
        return examined

    def report(self) -> Report:
        """What was found in all parts."""
        return Report(
            base=self._base,
            max_length=self._max_length,
            template_sha256=hashlib.sha256(self._encoder.template.encode()).hexdigest(),
            ends=tuple(self._encoder.token(token) for token, _ in self._last.most_common(3)),
            parts=tuple(part.part(self._max_length) for part in self._parts),
            findings=tuple(finding for part in self._parts for finding in part.findings),
        )

    def _look(self, part: Examined, before: list[Examined], example: Example, encoded: Encoded) -> None:
        if len(part.first) < part.keep:
            part.first.append(example)
        part.lengths[encoded.whole] += 1
        part.learned[encoded.supervised] += 1
        self._compare(part, before, example.source, example.messages, example.messages[-1].content)
        self._note_cut(part, {"messages": encoded})
        self._note_answer(part, example, encoded, encoded)

    def _look_pair(self, part: Examined, before: list[Examined], preference: Preference, pair: EncodedPair) -> None:
        if len(part.first) < part.keep:
            part.first.append(preference)
        part.lengths[pair.chosen.whole] += 1
        part.rejected[pair.rejected.whole] += 1
        part.learned[pair.supervised] += 1
        chosen, rejected = (each.messages[-1].content for each in (preference.chosen, preference.rejected))
        self._compare(part, before, preference.source, preference.chosen.messages, chosen, rejected)
        if folded(chosen) == folded(rejected):
            part.counts["same"] += 1
            zh = "与 chosen 只差大小写、全半角或空白，学不到有用的偏好；请改写或删去这一行"
            en = "differs from chosen by case, width or white space alone; rewrite it or remove the row"
            part.note("warning", "same", preference.source, "rejected", zh, en)
        self._note_cut(part, {"chosen": pair.chosen, "rejected": pair.rejected})
        if pair.chosen.supervised:
            self._note_answer(part, preference.chosen, pair.chosen, None)

    def _note_answer(self, part: Examined, example: Example, encoded: Encoded, whole: Encoded | None) -> None:
        """What is wrong with an answer that is to be given.

        Args:
            whole: with the mask of all that the assistant says; None where it would have to be made.
        """
        if encoded.cut is None or not encoded.cut.supervised:
            self._note_end(part, encoded)
        if encoded.empty_thoughts:
            part.counts["empty_thoughts"] += 1
            zh = "学习了空的 <think></think>，模型会学会不思考；请删去空的思考，或换用不自动加入它的模板"
            en = "an empty <think></think> is learned, which teaches not to think"
            en += "; remove it, or use a template that adds none"
            part.note("warning", "thought", encoded.source, "messages", zh, en)
        if part.served < _SERVED:
            part.served += 1
            found = whole or self._encoder.encode(example)
            if not isinstance(found, BadRow):
                self._note_served(part, example, found)

    def _compare(
        self, part: Examined, before: list[Examined], source: Source, turns: Sequence[Message], *answers: str
    ) -> None:
        """Whether the part, or one before it, asks or says the same."""
        prompt = prompt_mark(turns, b"")
        said = [folded(answer) for answer in answers]
        whole = _mark(prompt, said)
        if (line := part.said.get(whole)) is not None:
            part.counts["duplicates"] += 1
            zh, en = f"与第 {line} 行相同；请删去其一", f"says the same as line {line}; remove one"
            part.note("warning", "duplicate", source, "messages", zh, en)
        elif len(said) > 1 and (line := part.said.get(_mark(prompt, said[::-1]))) is not None:
            part.said[whole] = source.line
            part.counts["contrary"] += 1
            zh = f"与第 {line} 行相反：那里选择的正是这里拒绝的；请删去其一"
            en = f"is contrary to line {line}, which chooses what is rejected here; remove one"
            part.note("warning", "contrary", source, "chosen", zh, en)
        else:
            part.said[whole] = source.line
            part.counts["alike"] += prompt in part.prompts
            part.prompts.setdefault(prompt, source.line)
        for other in before:
            if (line := other.prompts.get(prompt)) is not None:
                part.counts["leaks"] += 1
                zh = f"同一个问题也在 {other.label}:{line}，评测结果会偏高；请从其中一处删去"
                en = f"the same question is in {other.label}:{line}, which flatters the scores; remove it from one"
                part.note("warning", "leak", source, "messages", zh, en)
                break

    def _note_cut(self, part: Examined, sides: Mapping[str, Encoded]) -> None:
        """What is cut off a row: of its conversation, or of both, by the field that holds it."""
        cuts = [encoded.cut for encoded in sides.values() if encoded.cut is not None]
        part.counts["cut"] += bool(cuts)
        part.counts["cut_learning"] += any(cut.supervised for cut in cuts)
        for where, encoded in sides.items():
            if encoded.cut is not None:
                self._note_one_cut(part, where, encoded, encoded.cut)

    def _note_one_cut(self, part: Examined, where: str, encoded: Encoded, cut: Cut) -> None:
        part.counts.update(cut_tokens=cut.tokens, cut_learned=cut.supervised, answers_lost=cut.answers)
        if not cut.supervised:
            return  # nothing that would be learned
        lost_zh = f"，{cut.answers} 个回答完全丢失" if cut.answers else ""
        lost_en = f", {cut.answers} whole answer{'s' * (cut.answers > 1)} among them" if cut.answers else ""
        limit = self._max_length
        part.note(
            "warning", "cut", encoded.source, where,
            f"{encoded.whole} 个词元，max_length={limit} 切掉了 {cut.supervised} 个要学的{lost_zh}；"
            f"请增大 max_length 或缩短对话",
            f"{encoded.whole} tokens: max_length {limit} cuts off {cut.supervised} that would be learned{lost_en}; "
            f"raise max_length or shorten the conversation",
        )  # fmt: skip

    def _note_end(self, part: Examined, encoded: Encoded) -> None:
        last = encoded.tokens[encoded.trained.rfind(1)]
        self._last[last] += 1
        if last in self._ends:
            return
        part.counts["endless"] += 1
        shown = _shown(self._encoder.token(last))
        ends = " ".join(_shown(self._encoder.token(token)) for token in sorted(self._ends)) or "-"
        zh = f"回答以 {shown} 结束，而推理时只在 {ends} 处停止；请换用对话模型，或在 generation_config.json 中加入结束标记"
        en = f"the answer ends with {shown}, but serving stops at {ends} alone"
        en += "; use a chat model, or name the end token in generation_config.json"
        part.note("warning", "end", encoded.source, "messages", zh, en, most=1)

    def _note_served(self, part: Examined, example: Example, encoded: Encoded) -> None:
        differs = self._encoder.served(example, encoded)
        if differs is None:
            return
        learned, served = map(_shown, differs)
        zh = f"训练时回答之前是 {learned}，推理时却是 {served}；请换用两者一致的对话模板"
        en = f"before its answer the model reads {learned} in training but {served} when served"
        en += "; use a chat template that gives both alike"
        part.note("warning", "template", encoded.source, "messages", zh, en, most=1)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is learned or not, cut off or not, from one end to the other."""

    text: str
    learned: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """An example as the model sees it.

    Attributes:
        answer: which of a preference's.
    """

    file: str
    line: int
    tokens: int
    learned: int
    pieces: tuple[Piece, ...]
    answer: Literal["", "chosen", "rejected"] = ""


def previews(tokenizer: Any, rows: Sequence[Example | Preference], max_length: int) -> list[Preview]:
    """The rows whole, with what is learned and what is cut off marked; those that cannot be learned are left out.

    Of a preference both answers, one after the other.
    """
    encoder = Encoder(tokenizer, _WHOLE)
    found = []
    for row in rows:
        if isinstance(row, Preference):
            pair = encode_pair(row, encoder)
            if not isinstance(pair, BadRow):
                found.append(_preview(encoder, pair.chosen, max_length, "chosen"))
                found.append(_preview(encoder, pair.rejected, max_length, "rejected"))
        elif not isinstance(whole := encoder.encode(row), BadRow):
            found.append(_preview(encoder, whole, max_length))
    return found


def _preview(
    encoder: Encoder, whole: Encoded, max_length: int, answer: Literal["", "chosen", "rejected"] = ""
) -> Preview:
    pieces = []
    for cut, span in ((False, slice(max_length)), (True, slice(max_length, None))):
        half = Encoded(array("i", whole.tokens[span]), whole.trained[span], whole.source)
        pieces += [Piece(text, learned, cut) for text, learned in encoder.pieces(half)]
    learned = whole.trained.count(1, 0, max_length)
    return Preview(whole.source.file, whole.source.line, len(whole), learned, tuple(pieces), answer)


def _examine(
    part: Examined,
    rows: Callable[[Callable[[BadRow], None]], Iterable[_Row]],
    encode: Callable[[_Row], _Tokens | BadRow],
    look: Callable[[_Row, _Tokens], None],
) -> None:
    try:
        for row in rows(part.refuse):
            found = encode(row)
            if isinstance(found, BadRow):
                part.refuse(found)
            else:
                look(row, found)
    except Invalid as problem:
        if "file" not in problem.details:
            raise
        part.refuse(_row_of(problem))


def _mark(prompt: bytes, answers: Sequence[bytes]) -> bytes:
    """What is asked and said, as 64 bits."""
    return blake2b(prompt + b"\0".join(answers), digest_size=8).digest()


def end_tokens(tokenizer: Any, folder: Path) -> frozenset[int]:
    """The tokens at which an answer of the base model in ``folder`` ends when it is served."""
    try:
        config = msgspec.json.decode((folder / "generation_config.json").read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        config = {}
    named = config.get("eos_token_id") if isinstance(config, dict) else None
    listed = named if isinstance(named, list) else [named]
    return frozenset(token for token in [tokenizer.eos_token_id, *listed] if type(token) is int)


def _held_out(role: Role, before: Role) -> bool:
    """Whether what a part of ``role`` asks should not stand in a part of the role ``before`` it."""
    return role != before and role not in ("train", "replay")


def _row_of(problem: Invalid) -> BadRow:
    """What stopped the reading of a file, as a row; line 0 where the file as a whole is meant."""
    file, line, named = (problem.details.get(name) for name in ("file", "line", "field"))
    where = f"{file}:{line}" if line else f"{file}"
    zh, en = problem.zh.removeprefix(f"{where}: "), problem.en.removeprefix(f"{where}: ")
    if named and en.startswith(f"{named}: "):
        zh, en = zh.removeprefix(f"{named}：").removeprefix(f"{named}: "), en.removeprefix(f"{named}: ")
    else:
        named = ""
    return BadRow(Source(str(file), line or 0), str(named), zh, en)


def _shown(text: str) -> str:
    """A piece of text in a message: quoted, escaped and short."""
    quoted = repr(text)
    return quoted if len(quoted) <= _SHOWN else f"{quoted[:_SHOWN]}…"
