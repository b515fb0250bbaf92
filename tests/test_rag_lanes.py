"""A job's end leaves nothing for the collector: what it looked into could be an index whose files are removed."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from rag.errors import InvalidRequest
from rag.lanes import Job, Lane


class Opened:
    """Something large that a job looks into."""


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_job_looked_into_goes_with_its_end(fails: bool) -> None:
    seen: list[weakref.ref[Opened]] = []

    def look() -> Iterator[Opened]:
        opened = Opened()
        seen.append(weakref.ref(opened))
        yield opened
        if fails:
            raise InvalidRequest("not today")

    async def read() -> str:
        lane = Lane("lookup", waiting=1)
        try:
            found = [opened async for opened in lane.submit(look)]
            assert len(found) == 1
            return "read"
        except InvalidRequest:
            return "failed"
        finally:
            await lane.close()

    gc.collect()
    gc.disable()
    try:
        ended = asyncio.run(read())
        assert ended == ("failed" if fails else "read")
        assert seen[0]() is None
    finally:
        gc.enable()


def test_figures_are_read_while_jobs_come_and_go() -> None:
    """Another thread reads them; here the job that is looked at goes at that very moment."""

    class Going(Job[int]):
        @property
        def started(self) -> float | None:  # type: ignore[override]
            lane._jobs.discard(self)
            return None

        @started.setter
        def started(self, when: float | None) -> None:
            pass

    async def look() -> tuple[int, int]:
        nonlocal lane
        lane = Lane("chat", waiting=1)
        lane._jobs.update({Going(lambda: iter([1])), Going(lambda: iter([1]))})
        found = lane.depth, lane.running
        await lane.close()
        return found

    lane: Lane
    assert asyncio.run(look()) == (2, 0)
