"""Who asks. Every service that keeps records takes one, and shows another's record to nobody but an admin."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A person or program behind a request.

    Attributes:
        name: recorded as the owner of what they make.
        admin: sees what others made.
    """

    name: str
    admin: bool = False

    def sees(self, owner: str) -> bool:
        """Whether a record of ``owner`` exists for this caller; another's is answered like a missing one."""
        return self.admin or owner == self.name

    @property
    def only(self) -> str | None:
        """The one owner whose records a list shows; None shows all."""
        return None if self.admin else self.name


LOCAL = Caller("local", admin=True)  # the command line, and whoever reaches a server that wants no token
