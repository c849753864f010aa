"""How often a provider is asked, and how long it is waited for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How often and how patiently a provider is asked; seconds.

    Attributes:
        poll_s: between two looks at a job.
        stopping_s: between two looks at a job that was asked to stop; it is asked again every ``poll_s``.
        settle_s: a job that was asked for without an answer is in the provider's list by then, or does not exist.
        create_s: longest that asking for a job takes, so that whoever takes the run over does not settle too early.
        ask_s: longest that somebody who asks how a job stands waits for the provider.
        first_s, longest_s: until a call that failed for now is tried again; doubled from one to the other.
        patience_s: what a pass over all runs waits for one of them.
        at_once, uploads_at_once: questions, and uploads, under way together.
    """

    poll_s: float = 15.0
    stopping_s: float = 2.0
    settle_s: float = 120.0
    create_s: float = 120.0
    ask_s: float = 20.0
    first_s: float = 5.0
    longest_s: float = 300.0
    patience_s: float = 0.25
    at_once: int = 8
    uploads_at_once: int = 2
