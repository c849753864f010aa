"""Users, as everybody may see them, and the names they may have."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Invalid

Role = Literal["admin", "member"]

MAX_NAME = 64  # letters
# letters and marks that show nothing: two names that look alike would be two users (Unicode DerivedCoreProperties,
# Default_Ignorable_Code_Point)
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may sign in.

    Attributes:
        role: "admin" sees what others made, "member" only their own.
        disabled: may not sign in; tokens and API keys are refused.
        last_login_at: when they last gave their password; None for never, and before this was kept.
    """

    name: str
    role: Role
    disabled: bool
    created_at: datetime
    last_login_at: datetime | None = None

    @property
    def caller(self) -> Caller:
        """Who this is to the services that keep records."""
        return Caller(self.name, admin=self.role == "admin")


def parse_user_name(text: str) -> str:
    """``text`` as a user name, in Unicode's composed form (NFC): 1 to 64 letters, digits and ``. _ - @``.

    Letters of any script, with their combining marks; the first is a letter or a digit.

    Raises:
        Invalid: it is none, or "local", which owns what the command line makes.
    """
    # a longer text is not normalised: that costs more the longer it is
    name = unicodedata.normalize("NFC", text) if len(text) <= 4 * MAX_NAME else ""
    well_formed = 1 <= len(name) <= MAX_NAME and name[0].isalnum() and all(map(_may_hold, name))
    if not well_formed or _UNSEEN.search(name):
        raise Invalid(
            f"用户名应为 1 到 {MAX_NAME} 个字母、数字或 . _ - @，并以字母或数字开头",
            f"a user name is 1 to {MAX_NAME} letters, digits or . _ - @, and begins with a letter or a digit",
            field="name",
        )
    if likeness(name) == LOCAL.name:
        raise Invalid(
            f"用户名 {LOCAL.name} 保留给命令行，请换一个",
            f"the name {LOCAL.name} belongs to the command line; take another",
            field="name",
        )
    return name


def likeness(name: str) -> str:
    """What names that a person could take for one another share: case and compatible forms do not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _may_hold(letter: str) -> bool:
    return letter in "._-@" or unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Mn", "Mc")
