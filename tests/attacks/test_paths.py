"""Names that try to leave the home folder, through every field that takes one."""

import json
import os
import threading
from collections.abc import Callable

import pytest

from tests.attacks.conftest import API, Attacker, refused, tree
from tests.server import Server

NAMES = {
    "parent": "../outside.json",
    "parent inside": "data/../../outside.json",
    "absolute": "/etc/passwd",
    "doubly absolute": "//etc/passwd",
    "drive": "C:\\Windows\\win.ini",
    "drive with slashes": "C:/Windows/win.ini",
    "unc": "\\\\server\\share\\x",
    "unc with slashes": "//server/share/x",
    "backslash": "..\\outside.json",
    "nul": "data/x.json\x00.txt",
    "percent": "%2e%2e/outside.json",
    "doubly percent": "%252e%252e/outside.json",
    "one dot leader": "\u2024\u2024/outside.json",
    "two dot leader": "\u2025/outside.json",
    "full width dots": "\uff0e\uff0e/outside.json",
    "symlink to a file": "link.json",
    "symlink to a folder": "linked/train.json",
    "sibling prefix": "../home_evil/train.json",
    "device": "/dev/zero",
    "environment": "/proc/self/environ",
    "pipe": "pipe",
    "long": "a" * 10_000,
    "long parts": "/".join(["a"] * 5000),
    "windows device": "nul",
    "windows device with suffix": "data/con.json",
    "home": "~/.ssh/id_rsa",
    "line break": "data/x\ny.json",
    "override": "data/\u202ex.json",
    "database": "tunesmith.db",
    "key": "secrets/token.key",
    "other folders": "runs/x/recipe.json",
}


@pytest.fixture(scope="module", autouse=True)
def pipe(server: Server) -> None:
    os.mkfifo(server.home / "pipe")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_dataset_path(mallory: Attacker, name: str) -> None:
    refused(mallory.post("/train", {"dataset_path": name}))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_model_path(mallory: Attacker, name: str) -> None:
    refused(mallory.post("/generate", {"prompt": "x", "model_path": name}))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_base_model(mallory: Attacker, name: str, dataset: str) -> None:
    refused(mallory.post("/train", {"dataset_path": dataset, "base_model": name}))


# names that are plain once a leading slash means home, or that only cannot be read
HARMLESS_OUTPUTS = {"absolute", "doubly absolute", "device", "environment", "unc with slashes", "long parts"}


@pytest.mark.parametrize("label", NAMES)
def test_output_dir(server: Server, mallory: Attacker, dataset: str, label: str) -> None:
    before = tree(server.home.parent)
    answer = mallory.post("/train", {"dataset_path": dataset, "config": {"output_dir": NAMES[label]}})
    if answer.status_code == 200:
        assert label in HARMLESS_OUTPUTS
        mallory.post(f"/train/cancel/{answer.json()['task_id']}", {})
    else:
        refused(answer, 400, 403, 404, 409)
    outside = {path for path in tree(server.home.parent) - before if not path.startswith("home/")}
    assert outside == set()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_output_name(server: Server, mallory: Attacker, dataset_id: str, name: str) -> None:
    before = tree(server.home.parent)
    if name in ("pipe",):
        name = "pipe/.."
    refused(mallory.post("/datasets/process", {"dataset_id": dataset_id, "output_name": name}), 400)
    assert tree(server.home.parent) == before


@pytest.mark.parametrize("label", [label for label in NAMES if "\n" not in NAMES[label] and "\x00" not in NAMES[label]])
def test_upload_filename(server: Server, mallory: Attacker, label: str) -> None:
    before = tree(server.home.parent)
    answer = mallory.upload(b'[{"a": 1}]', NAMES[label], name=f"upload {label}")
    made = tree(server.home.parent) - before
    if answer.status_code == 200:
        path = answer.json()["path"]
        assert made == {f"home/{path}"} and path.startswith("data/raw/") and path.count("/") == 2
        assert len(path) < 128 and ".." not in path and "%" not in path and "\\" not in path
    else:
        refused(answer, 400)
        assert made == set()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("path", ["/train/status/", "/train/cancel/", "/models/"])
def test_ids_in_the_path(mallory: Attacker, path: str, name: str) -> None:
    from urllib.parse import quote

    method = "POST" if "cancel" in path else "GET"
    for spelled in {quote(name, safe=""), quote(quote(name, safe=""), safe="")}:
        refused(mallory.send(method, API + path + spelled[:8000]), 400, 404, 405)


def test_a_dataset_id_is_no_path(mallory: Attacker) -> None:
    for name in NAMES.values():
        refused(mallory.post("/datasets/process", {"dataset_id": name, "output_name": "x"}), 400, 404)


def test_case_collisions_do_not_replace_another_file(server: Server, mallory: Attacker) -> None:
    paths = [
        mallory.upload(b'[{"a": 1}]', name, name=f"case {name}").json()["path"] for name in ("Case.json", "case.json")
    ]
    assert len({path.casefold() for path in paths}) == 2
    assert all((server.home / path).is_file() for path in paths)


def test_two_runs_to_one_place_one_conflict(mallory: Attacker, dataset: str) -> None:
    body = {"dataset_path": dataset, "config": {"output_dir": "models/contested", "num_epochs": 50}}
    answers = together(8, lambda: mallory.post("/train", body))
    assert sorted(each.status_code for each in answers) == [200] + [409] * 7
    [started] = [each.json()["task_id"] for each in answers if each.status_code == 200]
    nested = {"dataset_path": dataset, "config": {"output_dir": "models/contested/final/deeper"}}
    refused(mallory.post("/train", nested), 409)
    assert mallory.post(f"/train/cancel/{started}", {}).status_code == 200


def test_a_link_swapped_in_after_the_check_is_not_followed(server: Server, mallory: Attacker) -> None:
    """A file and a link to a secret take turns under one name while it is asked for."""
    inside, stop = server.home / "data" / "swap.json", threading.Event()
    good = server.home / "data" / "good.json"
    good.write_text(json.dumps([{"instruction": "a", "output": "b"}] * 4))

    def swap() -> None:
        other = server.home / "data" / "swap.tmp"
        while not stop.is_set():
            for make in (lambda: other.symlink_to(server.home.parent / "outside.json"), lambda: os.link(good, other)):
                other.unlink(missing_ok=True)
                make()
                other.replace(inside)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        tasks = []
        for _ in range(40):
            answer = mallory.post("/train", {"dataset_path": "data/swap.json", "config": {"num_epochs": 1}})
            if answer.status_code == 200:
                tasks.append(answer.json()["task_id"])
            else:
                refused(answer)
    finally:
        stop.set()
        swapping.join()
    for task in reversed(tasks):  # from the end of the queue: none is started only to be stopped
        assert mallory.post(f"/train/cancel/{task}", {}).status_code in (200, 400)


@pytest.fixture(scope="module")
def dataset_id(mallory: Attacker) -> str:
    rows = [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in range(40)]
    answer = mallory.upload(json.dumps(rows).encode(), name="for paths")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def dataset(mallory: Attacker, dataset_id: str) -> str:
    answer = mallory.post("/datasets/process", {"dataset_id": dataset_id, "output_name": "for_paths"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output_path"])


def together(many: int, call: Callable[[], "object"]) -> list:  # type: ignore[type-arg]
    """The answers of ``many`` calls made at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(many) as pool:
        return [each.result() for each in [pool.submit(call) for _ in range(many)]]
