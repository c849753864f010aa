"""The page's types of what the dialects answer, against what the dialects say of themselves today."""

import json
from pathlib import Path

from tools.openapi import texts

SCHEMA = Path(__file__).parents[2] / "web/src/api/schema"


def test_the_types_of_the_page_are_those_of_the_dialects() -> None:
    now = json.loads(texts()["digests.json"])
    made = json.loads((SCHEMA / "digests.json").read_text())
    stale = [name for name in now if made.get(name) != now[name]]
    assert not stale, f"other than when the page's types were made of them: {stale}; run make types"
    assert {path.stem for path in SCHEMA.glob("*.ts")} == {Path(name).stem for name in now}
