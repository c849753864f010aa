"""A trainer process executes a run of preferences, with general examples among them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.training.data.test_preparing import PAIRS, ROWS, write
from tunesmith.kernel.home import Home
from tunesmith.training import run_folder
from tunesmith.training.data.findings import read_report
from tunesmith.training.figures import ACCURACIES, MARGINS, NLL
from tunesmith.training.loop.checkpoint_files import BASE_MARGINS
from tunesmith.training.run import Recipe, State
from tunesmith.training.run_folder import Order


def test_a_run_of_preferences_tells_its_rewards_in_every_place(tmp_path: Path, tiny_base: Path) -> None:
    home = Home(tmp_path / "home")
    (home.root / "data").mkdir(parents=True)
    shutil.copytree(tiny_base, home.root / "models" / "tiny")
    recipe = Recipe(
        "tiny", write(home, "p.jsonl", PAIRS), objective="dpo", validation=write(home, "v.jsonl", PAIRS[:2]),
        replay=write(home, "r.jsonl", ROWS), replay_share=0.4, epochs=2, batch_size=4, max_length=64, rank=4,
        learning_rate=5e-3,
    )  # fmt: skip
    folder = home.runs / "a"
    folder.mkdir(parents=True)
    run_folder.write_order(folder, Order("a", str(home.root), "adapters/a", str(home.root / "models/tiny"), recipe, 1))
    trainer = [sys.executable, "-m", "tunesmith.training.trainer", "--run-dir", str(folder)]
    subprocess.run(trainer, check=True, capture_output=True)

    rows = list(run_folder.metrics(folder))
    steps = [row for row in rows if "event" not in row]
    assert len(steps) == 4 and run_folder.read_progress(folder).step == 4
    assert all({ACCURACIES, MARGINS} <= row.keys() or NLL in row for row in steps)
    assert any(NLL in row for row in steps) and any(0 <= row.get(ACCURACIES, -1) <= 1 for row in steps)
    scorings = [row for row in rows if row.get("event") == "validation"]
    assert len(scorings) == 2 and all({ACCURACIES, MARGINS} <= row.keys() and NLL not in row for row in scorings)

    done = run_folder.read_done(folder)
    assert done is not None and done.state is State.COMPLETED
    assert done.figures[f"eval_{MARGINS}"] == scorings[-1][MARGINS] and NLL in done.figures
    facts = json.loads((home.root / "adapters" / "a" / "tunesmith.json").read_text())
    assert {name: facts["metrics"][name] for name in done.figures} == done.figures
    assert "| validation: reward accuracy |" in (home.root / "adapters" / "a" / "README.md").read_text()
    report = read_report(folder)
    assert report is not None and [part.pairs for part in report.parts] == [True, False, True]
    assert "4 preferences, 4 examples" in report.line("en")
    assert not list(folder.rglob(BASE_MARGINS))  # nobody goes on with what is done
