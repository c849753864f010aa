import json
import subprocess
import sys

CODE = """
import structlog
from tunesmith.kernel.logs import log_to_stderr

def answer(prompt):
    raise ValueError("broken")

log_to_stderr("info")
log = structlog.get_logger()
log.debug("silent")
try:
    answer("a private " + "question")
except ValueError:
    log.exception("failed")
"""


def test_a_failure_is_one_line_of_json_without_anybodys_prompt() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    entry = json.loads(line)
    assert entry["event"] == "failed" and "ValueError: broken" in entry["exception"]
    assert "private question" not in line
