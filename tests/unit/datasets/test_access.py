"""What a person may name as training data: their own, and what belongs to nobody."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.datasets.conftest import Here
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.settings import Settings

ANN, BOB = Caller("ann"), Caller("bob")
ROWS = "".join(f'{{"prompt": "q{n}", "completion": "a{n}"}}\n' for n in range(20))

THEIRS = [
    *("data/raw/x.jsonl", "./data//raw/x.jsonl", "data/./raw/x.jsonl", "data/raw/X.JSONL", "Data/RAW/x.jsonl"),
    *("data/raw/ÉTÉ.jsonl", "data/raw/été.jsonl", "data/raw/E\u0301TE\u0301.jsonl"),
    *("town", "town/train", "town/test", "town/all", "./town", "town//test", "town/", "TOWN", "Town/test"),
    *("data/processed/town", "data/processed/town/test", "data/processed/town/train.jsonl", "data/Processed/TOWN"),
    *("data/processed/town/dataset.json", "data/processed/town/test.parquet", "data/processed/town/no/such/thing"),
    "./data//processed/./town/validation.jsonl",
]
NOBODYS = ["runs", "runs/1/metrics.jsonl", "evaluations/1.json", "engines/x.log", "secrets/jwt.key", "usage/1"]
NOBODYS += ["tunesmith.db", "tunesmith.db-wal", "Tunesmith.DB-shm", "RUNS/1", "./secrets//x", "Secrets/x"]
NOBODYS += [".hidden", "data/raw/.upload-dataset_0123456789ab", "data/processed/.processing-1/train.jsonl"]
NOBODYS += ["data/processed/damaged/all.jsonl", "damaged", "damaged/test", "data/processed/Damaged/x"]
EVERYBODYS = ["data/train.json", "data/raw/owners.json", "data/processed/loose.jsonl", "village/test", "x.csv"]
EVERYBODYS += ["data/samples/town.train.jsonl", "data/processed/nothing", "nothing", "townhouse", "data", "data/raw"]


@pytest.fixture
def datasets(database: Database, home: Home, tmp_path: Path) -> DatasetService:
    """Ann's upload x.jsonl and dataset town, a damaged dataset, and files of the machine's owner."""
    service = DatasetService(database, home, worker=Here())
    uploads = UploadService(database, home, Settings(home=home.root), worker=Here())
    for name in ("ÉTÉ.jsonl", "x.jsonl"):
        incoming = uploads.begin(name, name=name, caller=ANN)
        incoming.write(ROWS.encode())
        if name != "x.jsonl":
            asyncio.run(incoming.finish())
    ratios = {"train": 0.8, "validation": 0.1, "test": 0.1}
    asyncio.run(service.process(asyncio.run(incoming.finish()).id, "town", ratios, caller=ANN))
    (tmp_path / "x.jsonl").write_text(ROWS)
    service.add("damaged", tmp_path / "x.jsonl", caller=BOB)
    (home.datasets / "damaged" / "dataset.json").write_text("{")
    (home.uploads / "owners.json").write_text(ROWS)
    return service


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_anothers_is_not_there_in_any_spelling(datasets: DatasetService, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        datasets.check_may_read(name, BOB)
    assert caught.value.en == f"dataset does not exist: {name}"
    datasets.check_may_read(name, LOCAL)


@pytest.mark.parametrize("name", [name for name in THEIRS if name.lower() == name])
def test_what_is_ones_own_may_be_read(datasets: DatasetService, name: str) -> None:
    datasets.check_may_read(name, ANN)


@pytest.mark.parametrize("name", NOBODYS)
def test_what_the_server_keeps_for_itself_is_an_admins_alone(datasets: DatasetService, name: str) -> None:
    with pytest.raises(NotFound):
        datasets.check_may_read(name, ANN)
    datasets.check_may_read(name, LOCAL)


@pytest.mark.parametrize("name", EVERYBODYS)
def test_what_belongs_to_nobody_may_be_read_by_all(datasets: DatasetService, name: str) -> None:
    datasets.check_may_read(name, BOB)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "data/../runs/1", "a\0", "C:\\x", "%2e%2e/x", "x" * 2000])
def test_what_is_no_name_is_invalid(datasets: DatasetService, name: str) -> None:
    with pytest.raises(Invalid):
        datasets.check_may_read(name, BOB)
