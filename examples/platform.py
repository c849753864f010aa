"""From a file to a tuned model over ``/api/v1``, in one go: log in, upload, process, train, ask.

    tunesmith users add amy              # asks for a password
    tunesmith serve                      # and in another terminal:
    python examples/platform.py amy PASSWORD examples.json

``examples.json`` is a list of {"instruction", "input", "output"} objects. Needs nothing but Python and ``requests``.
"""

import sys
import time
from pathlib import Path

import requests

SERVER = "http://127.0.0.1:8000/api/v1"


def main(username: str, password: str, file: Path) -> None:
    session = requests.Session()

    def call(method: str, path: str, **options: object) -> dict:
        answer = session.request(method, SERVER + path, **options)
        body = answer.json()
        if not answer.ok:
            sys.exit(f"{answer.status_code} {body['error']['code']}: {body['error']['message']}")
        return body

    token = call("POST", "/login", json={"username": username, "password": password})["token"]
    session.headers["Authorization"] = f"Bearer {token}"

    name = f"{file.stem}-{int(time.time())}"  # a name is used once
    with file.open("rb") as content:
        raw = call("POST", "/datasets/upload", data={"name": name}, files={"file": (file.name, content)})
    print(f"{raw['samples_count']} samples in {raw['path']}")

    body = {"dataset_id": raw["id"], "output_name": name}
    done = call("POST", "/datasets/process", json=body)
    print(f"splits: {done['splits']}")

    config = {"learning_rate": 1e-3, "num_epochs": 3}
    task = call("POST", "/train", json={"dataset_path": done["output_path"], "config": config})["task_id"]
    while (status := call("GET", f"/train/status/{task}"))["status"] in ("queued", "running"):
        print(f"{status['status']} {status['progress']:5.1f} %  {status['metrics']}")
        time.sleep(2)
    print(status["status"], status["error"] or status["model_path"])

    answer = call("POST", "/generate", json={"prompt": "你好", "temperature": 0})
    print(f"{answer['model_path']}: {answer['generated_texts'][0]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
