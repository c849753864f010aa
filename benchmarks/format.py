"""Rows a second of the formatter, and its memory, beside the plainest script that writes the same bytes.

    python benchmarks/format.py [--rows 100000]

Ours reads a JSON Lines file under home, checks every row and writes the file whole and synced; the script reads with
json.loads and writes with json.dumps, checking nothing. Each runs in a process of its own, so that its peak memory is
its own; the best of three runs counts. The last column is the peak for a tenth of the rows: memory must not grow with
them. For final_only as OpenAI chat the two files are compared byte for byte.
"""

import argparse
import filecmp
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 3
SYSTEM, INSTRUCTIONS = "你是客服。", "Think step by step, explaining your reasoning."
CASES = [  # format, strategy
    ("openai_chat_jsonl", "final_only"),
    ("openai_chat_jsonl", "two_message_cot"),
    ("huggingface_chat_template_jsonl", "final_and_intermediate_r1_compatible"),
    ("openai_chat_json_schema_jsonl", "final_only"),
    ("huggingface_chat_template_toolcall_jsonl", "final_only"),
    ("vertex_gemini", "final_only"),
]
SCRIPT = "json.loads, json.dumps"


def generate(path: Path, rows: int) -> None:
    """Questions of some 20 words, thoughts of 30, and answers that are JSON objects of some 40."""
    rng = random.Random(7)
    words = ["retrieval", "gradient", "学习率", "适配器", "tokenizer", "语料", "harbour", "lantern", "评估", "baseline"]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            answer = {"category": rng.choice(words), "text": " ".join(rng.choices(words, k=40)), "score": number / 7}
            row = {
                "input": f'{number}: say "{rng.choice(words)}"\n{" ".join(rng.choices(words, k=20))}',
                "output": json.dumps(answer, ensure_ascii=False),
                "reasoning": " ".join(rng.choices(words, k=30)),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def ours(home: Path, name: str, format: str, strategy: str) -> Path:
    """Write ``name`` with the service."""
    from tunesmith.datasets.export.sample import Wanted
    from tunesmith.datasets.export.service import ExportService
    from tunesmith.datasets.export.wanted import read_format, read_strategy
    from tunesmith.kernel.caller import LOCAL
    from tunesmith.kernel.home import Home

    chosen = read_strategy(strategy)
    wanted = Wanted(
        format=read_format(format),
        strategy=chosen,
        system=SYSTEM,
        thinking_instructions=INSTRUCTIONS if chosen.instructs else None,
    )
    return home / ExportService(Home(home), lambda name, caller: None).write(name, "train", wanted, LOCAL)


def script(home: Path, name: str) -> Path:
    """Write ``name`` as anybody would in an afternoon."""
    written = home / "script.jsonl"
    with (home / name).open(encoding="utf-8") as source, written.open("w", encoding="utf-8") as file:
        for line in source:
            row = json.loads(line)
            turns = [("system", SYSTEM), ("user", row["input"]), ("assistant", row["output"])]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return written


def measured(*given: str) -> tuple[float, float, Path]:
    """Seconds and peak resident MB of one writing in a fresh process (start-up not timed), and the file."""
    command = [sys.executable, __file__, "--child", *given]
    seconds, peak, path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(maxsplit=2)
    return float(seconds), float(peak), Path(path.strip())


def child(home: Path, name: str, format: str, strategy: str) -> None:
    """Write once; print seconds, peak MB and where."""
    import resource

    if format != "script":
        import tunesmith.datasets.export.service  # noqa: F401  (its imports are start-up too)

    started = time.perf_counter()
    path = script(home, name) if format == "script" else ours(home, name, format, strategy)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), path)


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        child(Path(given.child[0]), *given.child[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        generate(home / "rows.jsonl", given.rows)
        generate(home / "few.jsonl", max(1, given.rows // 10))
        print(f"{given.rows} rows, {(home / 'rows.jsonl').stat().st_size / 1e6:.0f} MB; best of {RUNS}")
        print(f"{'writer':<80}{'rows/s':>9}{'it / script':>13}{'peak MB':>9}{'tenth':>7}")
        plain = 0.0
        for format, strategy in [("script", "-"), *CASES]:
            _, tenth, few = measured(folder, "few.jsonl", format, strategy)
            runs = [measured(folder, "rows.jsonl", format, strategy) for _ in range(RUNS)]
            if (format, strategy) == CASES[0] and not filecmp.cmp(runs[0][2], home / "script.jsonl", shallow=False):
                raise SystemExit("the two files differ")
            if format != "script":
                for path in (few, *(path for _, _, path in runs)):
                    path.unlink()
            rate = given.rows / min(seconds for seconds, _, _ in runs)
            plain = plain or rate
            title = SCRIPT if format == "script" else f"tunesmith, {format}, {strategy}"
            print(f"{title:<80}{rate:>9.0f}{rate / plain:>13.2f}{max(peak for _, peak, _ in runs):>9.0f}{tenth:>7.0f}")


if __name__ == "__main__":
    main()
