"""kill -9 in the middle of an evaluation."""

import asyncio
import subprocess
import sys

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.evaluation.test_service import FACTS, request
from tunesmith.evaluation.service import EvaluationService, State
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home

_SERVER = """
import asyncio, sys
from pathlib import Path
from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.evaluation.test_service import FACTS
from tunesmith.evaluation.service import EvaluationService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home

class Slow(AnsweringEngine):
    async def generate(self, requests):
        async for event in super().generate(requests):
            yield event
            print("answering", flush=True)
            await asyncio.sleep(60)

home = Home(Path(sys.argv[1]))
service = EvaluationService(Database(f"sqlite:///{home.root / 'tunesmith.db'}"), home, Slow(FACTS))
asyncio.run(service.execute(sys.argv[2]))
"""


@pytest.mark.crash
async def test_an_evaluation_whose_server_was_killed_runs_again_from_its_first_question(
    database: Database, home: Home
) -> None:
    service = EvaluationService(database, home, AnsweringEngine(FACTS))
    started = service.start(request())
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SERVER, str(home.root), started.id, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert await server.stdout.readline() == b"answering\n"
    assert await service.recover() == []  # it lives: hands off
    assert service.get(started.id).state is State.RUNNING
    server.kill()
    await server.communicate()

    assert await service.recover() == [started.id]
    await service._tasks[started.id]
    ended = service.get(started.id)
    assert (ended.state, ended.attempts, ended.done) == (State.COMPLETED, 2, 20)
    assert len(service.outputs(started.id)) == 10
    await service.close()
