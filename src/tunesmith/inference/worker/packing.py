"""What one step holds: how many tokens of each row, and the tensors' raw material."""

from collections.abc import Sequence

import msgspec

from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.drafts import StepTimes
from tunesmith.inference.worker.lora import Segment
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.step import Step

_LEAST_PREFILL = 64
_GUESSED = 16  # with more tokens no machine takes hardly longer than with one


# this and the next are made for every row of every step: a named tuple takes twice as long
class Share(msgspec.Struct, frozen=True, gc=False):
    """A step holds the next ``size`` tokens of ``row``, and then ``guess``: what it may say next.

    Attributes:
        draws: they are all that the cache does not hold, so that the row's next token can be drawn.
    """

    row: Row
    size: int
    draws: bool = True
    guess: Sequence[int] = ()


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Rows [begin, end) of a step's logits are one row's; ``first`` is the position of the token they begin with.

    Attributes:
        draws: they speak of the row's next token, from ``drawn`` on.
    """

    share: Share
    begin: int
    end: int
    first: int
    draws: bool
    drawn: int


def share_out(running: Sequence[Row], *, prefill: int, scored: int, times: StepTimes | None = None) -> list[Share]:
    """How many tokens of each row the next step holds; rows it has no room for are left out.

    Rows with one token to go always have it: those that decode, and those whose prompt was known but for its end.

    Args:
        prefill: most tokens of prompts, those of decoding rows counted in; a few are always read.
        scored: most tokens whose logits are kept to be scored.
        times: how long steps take; without, more tokens are taken to cost nothing.
    """
    decoding, behind = [], []
    for row in running:
        assert row.lease is not None
        left = len(row.prompt) + len(row.tokens) - row.lease.length  # row.left, without a call
        if left == 1:
            decoding.append(row)
        elif left > 1:
            behind.append(row)
    reading = _reading(behind, max(min(prefill, _LEAST_PREFILL), prefill - len(decoding)), scored) if behind else []
    guessing = not reading and may_guess(decoding)
    shares = _with_guesses(decoding, times or StepTimes()) if guessing else [Share(row, 1) for row in decoding]
    # Rows that wear the same adapter lie side by side: one product for all of them.
    shares += reading
    if any(share.row.adapter is not None for share in shares):
        shares.sort(key=lambda share: share.row.adapter_key)
    return shares


def may_guess(decoding: Sequence[Row]) -> bool:
    """Whether a step of the next tokens of these rows may hold guesses, too."""
    return len(decoding) < _GUESSED and any(row.drafter is not None for row in decoding)


def pack(cache: Cache, shares: Sequence[Share]) -> tuple[Step, list[Wanted]]:
    """The step, and whose logits it gives; makes room for what it will write."""
    tokens: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    segments: list[Segment] = []
    chunks, decoding, wanted = [], [], []
    logits = False
    for share in shares:
        row, count, guess = share.row, share.size, share.guess
        lease = row.lease
        assert lease is not None
        begin, start = len(tokens), lease.length
        draws = share.draws
        if count == 1 and not guess:
            tokens.append(row.tokens[-1] if draws and row.tokens else row.upcoming(1)[0])
            positions.append(start)
            end = begin + 1
            decoding.append((lease, begin))
        else:
            tokens.extend(row.upcoming(count))
            tokens.extend(guess)
            end = len(tokens)
            positions.extend(range(start, start + end - begin))
            chunks.append(Chunk(lease, begin, end, start))
        if start + end - begin > lease.arena.capacity:
            cache.reserve(lease, start + end - begin)
        if row.score or draws:
            logits = logits or row.score or row.picker is None or not row.picker.plain
            first = begin if row.score else begin + count - 1
            stop = len(keep) + end - first
            wanted.append(Wanted(share, len(keep), stop, start + first - begin, draws, stop - 1 - len(guess)))
            keep.extend(range(first, end))
        if row.adapter is not None:
            if segments and segments[-1].adapter is row.adapter:
                begin = segments.pop().begin
            segments.append(Segment(begin, end, row.adapter))
    return Step(tokens, positions, chunks, decoding, segments, keep, logits), wanted


def _reading(behind: Sequence[Row], left: int, scored: int) -> list[Share]:
    """Chunks of the prompts that are still being read, those of the rows ``behind``; ``left`` tokens in all."""
    # The first row of every caller goes before the second of any, so one question is not behind a whole evaluation.
    ahead: dict[str, int] = {}
    queue = []
    for row in sorted(behind, key=lambda row: row.order):
        ahead[row.group] = ahead.get(row.group, 0) + 1
        queue.append((ahead[row.group], row.order, row))
    shares, read = [], set()
    for _, _, row in sorted(queue, key=lambda item: item[:2]):
        count = min(left, row.left, *((scored,) if row.score else ()))
        if count <= 0:
            continue
        if row.leader is not None:
            if id(row.leader) in read:
                continue
            row.leader = None  # it is not ahead, so it would only be waited for
        left -= count
        scored -= count if row.score else 0
        read.add(id(row))
        shares.append(Share(row, count, count == row.left))
    return shares


def _with_guesses(decoding: Sequence[Row], times: StepTimes) -> list[Share]:
    """The next token of each row, and what it may say after that as far as that is worth its time."""
    tokens, said = len(decoding), float(len(decoding))
    found = []
    for row in decoding:
        # the last token of its budget is never an input, so a guess has one place less
        most = min(_GUESSED - tokens, row.budget - len(row.tokens) - 1)
        guess: Sequence[int] = ()
        if row.drafter is not None and row.tokens and most > 0:
            guess = row.drafter.guess(most, times, tokens=tokens, said=said)
            tokens, said = tokens + len(guess), said + row.drafter.gain(len(guess))
        found.append(Share(row, 1, guess=guess))
    return found
