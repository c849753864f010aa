"""Every expected failure, named once.

    Problem
    ├── Invalid          the caller asked for something malformed
    ├── Unauthenticated  nobody we know is asking
    ├── Forbidden        we know who asks, and they may not
    ├── NotFound         no such model, adapter, dataset, split, run
    ├── Conflict         the thing is in the wrong state for this
    ├── TooMany          asked too often, or for more than there is room for
    ├── Unsupported      this engine or executor cannot do that
    └── Unavailable      an engine, cluster or provider is not answering
        └── TimedOut     it was waited for as long as it may be

A Problem knows nothing of HTTP. Each dialect says how it looks on its wire.
"""

from typing import Any


class Problem(Exception):
    """Something the caller can act on; both messages are safe to show.

    Args:
        zh: the message in Chinese, the first language of the documents.
        en: the same in English.
        details: facts a program can use (file, line, field, limit); JSON values only.
    """

    def __init__(self, zh: str, en: str, **details: Any) -> None:
        super().__init__(en)
        self.zh, self.en, self.details = zh, en, details

    def message(self, language: str = "zh") -> str:
        """The message in ``language``: "zh" or anything else for English."""
        return self.zh if language == "zh" else self.en


class Invalid(Problem):
    """The caller asked for something malformed."""


class Unauthenticated(Problem):
    """Nobody we know is asking."""


class Forbidden(Problem):
    """We know who asks, and they may not."""


class NotFound(Problem):
    """No such model, adapter, dataset, split or run."""


class Conflict(Problem):
    """The thing is in the wrong state for this."""


class TooMany(Problem):
    """Asked too often, or for more than there is room for."""


class Unsupported(Problem):
    """This engine or executor cannot do that."""


class Unavailable(Problem):
    """An engine, cluster or provider is not answering; asking again later may help."""


class TimedOut(Unavailable):
    """An engine or provider was waited for as long as it may be; asking again later may help."""
