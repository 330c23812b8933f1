"""Reconcilers run at once, at each hint and when they asked for it, and outlive their own bugs."""

import asyncio
from collections.abc import Iterator

import pytest

from cairn.db.feed import Feed
from cairn.life.reconcile import Round, Runner
from cairn.sim.loop import LoopClock, VirtualLoop


class Counting:
    name = "test.counting"

    def __init__(self) -> None:
        self.rounds = 0
        self.again_s: float | None = 10.0
        self.is_broken = False

    async def run_once(self) -> Round:
        self.rounds += 1
        if self.is_broken:
            raise RuntimeError("a bug")
        return Round(found=1, done=1, again_s=self.again_s)


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def run(loop: VirtualLoop, runner: Runner, *then: object) -> None:
    async def live() -> None:
        task = asyncio.create_task(runner.run())
        for what in then:
            if isinstance(what, float | int):
                await asyncio.sleep(what)
            else:
                what()  # type: ignore[operator]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(live())


def test_timer_and_hint_run_the_same_round(loop: VirtualLoop) -> None:
    feed, counting = Feed(), Counting()
    runner = Runner([counting], feed, LoopClock(loop))
    run(loop, runner, 1, lambda: feed.wake("test.counting"), 1)
    assert counting.rounds == 2
    run(loop, runner, 35)
    assert counting.rounds == 2 + 4


def test_without_anything_to_wait_for_nothing_runs(loop: VirtualLoop) -> None:
    feed, counting = Feed(), Counting()
    counting.again_s = None
    runner = Runner([counting], feed, LoopClock(loop))
    run(loop, runner, 10_000, lambda: feed.wake("test.counting"), 10_000)
    assert counting.rounds == 2


def test_a_bug_ends_the_round_only(loop: VirtualLoop) -> None:
    feed, counting = Feed(), Counting()
    runner = Runner([counting], feed, LoopClock(loop))
    counting.is_broken = True
    run(loop, runner, 15)
    record = runner.records["test.counting"]
    assert record.trouble == "RuntimeError: a bug"
    assert counting.rounds == 2


def test_hints_for_others_wake_nobody(loop: VirtualLoop) -> None:
    feed, counting = Feed(), Counting()
    run(loop, Runner([counting], feed, LoopClock(loop)), 1, lambda: feed.wake("other"), 1)
    assert counting.rounds == 1
