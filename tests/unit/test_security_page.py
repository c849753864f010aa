"""``docs/security.md`` names tests: they exist, and every attack that is tested is named."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", PAGE)
    assert len(named) > 30
    for file, name in named:
        path = ROOT / file
        assert path.exists(), file
        if name:
            assert re.search(rf"def {name}\(", path.read_text()), f"{file}::{name}"


def test_every_attack_is_on_the_page() -> None:
    made = {
        name
        for file in (ROOT / "tests" / "attacks").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    checks_of_the_tests_themselves = {"test_the_forge_of_these_tests_makes_good_tokens"}
    assert {name for name in made - checks_of_the_tests_themselves if f"::{name}`" not in PAGE} == set()
