"""Servers killed at random moments while a job is made at a provider, and how many jobs there are afterwards.

    python -m benchmarks.hosted_crashes [--runs 200] [--seed 1] [--provider fireworks] [--json]

Each run is recorded, then its server is killed (SIGKILL) one to three times: at a random point between record, upload,
create and answer, or after a random time, so that calls are cut while the provider works on them. One server is then
left in peace. The provider is the stand-in of Together's or Fireworks' API that the tests use; it lives on. Together's
lets lists lag behind what was created, as real ones do; Fireworks' checks some files for a while, and does not always
follow the ids we choose. Each run must have one job, and the record must know it. Exits 1 when one does not.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.hosted_server import TAG, Servers, found, make_home
from tests.upstreams.fireworks_api import FireworksApi, fireworks_api
from tests.upstreams.together_api import LLAMA, TogetherApi, together_api

QWEN = "accounts/fireworks/models/qwen3-8b"
POINTS = 22  # that an undisturbed server passes, about


def asked_at(api: TogetherApi | FireworksApi) -> dict[str, str]:
    """What servers are told of the stand-in."""
    if isinstance(api, TogetherApi):
        return {"together": api.v1, "key": api.key, "model": LLAMA}
    return {"fireworks": api.url, "key": api.key, "model": QWEN}


def made(api: TogetherApi | FireworksApi) -> list[str]:
    """Ids of the run's jobs; the stand-in is as new afterwards."""
    if isinstance(api, FireworksApi):
        jobs = [str(job["name"]) for job in api.jobs.values()]
        for books in (api.jobs, api.datasets, api.files, api.asked, api.created):
            books.clear()
        return jobs
    jobs = [id for id, job in api.jobs.items() if (job.get("suffix") or api.asked[id].get("suffix")) == TAG]
    for books in (api.jobs, api.files, api.contents, api.checksums, api.events, api.asked, api.fresh):
        books.clear()
    return jobs


def one(
    servers: Servers, api: TogetherApi | FireworksApi, home: Path, provider: dict[str, str], chance: random.Random
) -> dict[str, Any]:
    """Kill the servers of one run, leave the last in peace, and look."""
    kills = []
    begun = time.monotonic()
    for _ in range(chance.randint(1, 3)):
        by_point = chance.random() < 0.7
        ended = servers.serve(
            home,
            provider,
            kill_at=chance.randint(1, POINTS) if by_point else None,
            kill_after_s=None if by_point else chance.uniform(0.05, 0.6),
        )
        if ended["killed"]:
            kills.append(ended["points"][-1] if ended["points"] else "before the first")
    servers.serve(home, provider)
    run, news = found(home)
    jobs = made(api)
    good = len(jobs) == 1 and news.job_id is not None and jobs[0] in news.job_id
    outcome = {
        "kills": kills,
        "jobs": len(jobs),
        "known": news.job_id,
        "state": str(run.state),
        "error": run.error,
        "good": good,
    }
    return outcome | {"seconds": time.monotonic() - begun}


def main() -> int:
    """Print what became of the runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--provider", choices=("together", "fireworks"), default="together")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    asked = parser.parse_args()
    chance, outcomes = random.Random(asked.seed), []
    stand_in: Any = fireworks_api if asked.provider == "fireworks" else together_api
    with Servers() as servers, stand_in() as api, tempfile.TemporaryDirectory() as folder:
        provider = asked_at(api)
        template = make_home(Path(folder) / "template", provider, empty=True)
        for number in range(asked.runs):
            if isinstance(api, TogetherApi):
                api.lagging = chance.random() < 0.5
            else:
                api.keep_uploading(chance.randint(0, 2))
                api.names_jobs_itself = chance.random() < 0.5
            home = make_home(Path(folder) / f"{number}", provider, template)
            outcomes.append(one(servers, api, home, provider, chance))
    kills = Counter(kill for outcome in outcomes for kill in outcome["kills"])
    bad = [outcome for outcome in outcomes if not outcome["good"]]
    if asked.json:
        print(json.dumps({"runs": len(outcomes), "kills": dict(kills), "bad": bad}))
        return 1 if bad else 0
    print(f"{'killed':<28}{'times':>6}")
    for point, count in sorted(kills.items()):
        print(f"{point:<28}{count:>6}")
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    print(f"\n{len(outcomes)} runs, {sum(kills.values())} kills, {seconds / len(outcomes):.2f} s a run")
    print(f"exactly one job, and known: {len(outcomes) - len(bad)} of {len(outcomes)}")
    for outcome in bad:
        print(f"  wrong: {outcome}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
