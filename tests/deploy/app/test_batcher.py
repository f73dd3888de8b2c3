"""Small requests go first, large ones come in every other batch, and explanations give way to both."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace

from deploy.app import batcher as batching
from deploy.app.batcher import Batcher, Batching
from handler.replies import Arrival
from handler.requests import Limits, Request

SMALL = Arrival({"body": b'"small"'}, "application/json")
LARGE = Arrival({"body": b'"large' + b" " * batching.LARGE_BYTES + b'"'}, "application/json")
WHY = Arrival({"body": b'"why"'}, "application/json", explain=True)


class Model:
    """Stands where a `Service` does, and notes its batches; an explanation has two passes."""

    limits = Limits()
    tally = SimpleNamespace(add=lambda sums: None)
    stand_back: Callable[[], None] | None = None

    moments = (0.0, 0.0)  # no batch is timed
    rows = ()

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.between: Callable[[], None] = lambda: None

    def answer(self, requests: list[Request]) -> list[list[dict]]:
        self.batches.append([request.rows[0].text.split()[0] for request in requests])
        if requests[0].explain:
            for _ in range(2):
                self.between()
                assert self.stand_back is not None
                self.stand_back()
            self.batches.append(["explained"])
        return [[{"label": row.text.split()[0]} for row in request.rows] for request in requests]

    def wrap(self, request: Request, answers: list[dict]) -> dict | list:
        return request.wrap(answers, {}, [])


def answered(
    *arrivals: Arrival, size: int = 4, queue_size: int = 256, during: tuple[Arrival, ...] = ()
) -> tuple[list[list[str]], list[int]]:
    """The batches that were made of what waited when the model became free, and the statuses of the replies;
    what comes `during` an explanation has no status."""
    model = Model()

    async def ask() -> list[int]:
        asked = Batcher(lambda: model, Batching(size, 0, queue_size))  # type: ignore[arg-type, return-value]
        asked.service = model  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        later: list[asyncio.Task] = []
        queue = list(during)

        async def come() -> None:
            later.append(asyncio.create_task(asked.ask(queue.pop(0))))
            await asyncio.sleep(0)

        model.between = lambda: asyncio.run_coroutine_threadsafe(come(), loop).result() if queue else None
        waiting = [asyncio.create_task(asked.ask(arrival)) for arrival in arrivals]
        await asyncio.sleep(0)
        working = asyncio.create_task(asked.work())
        async with asyncio.timeout(60):
            replies = await asyncio.gather(*waiting)
            await asyncio.gather(*later)
        working.cancel()
        assert all(json.loads(each.body) for each in replies)
        return [each.status for each in replies]

    return model.batches, asyncio.run(ask())


def test_large_requests_do_not_keep_small_ones_waiting() -> None:
    batches, statuses = answered(*[LARGE] * 4, *[SMALL] * 8)
    assert batches == [
        ["large", "small", "small", "small"],
        ["small", "small", "small", "small"],
        ["large", "small"],
        ["large"],
        ["large"],
    ]
    assert set(statuses) == {200}


def test_batches_of_one_take_small_and_large_in_turn() -> None:
    batches, _ = answered(LARGE, LARGE, SMALL, SMALL, size=1)
    assert batches == [["large"], ["small"], ["large"], ["small"]]


def test_half_of_the_places_are_for_small_requests() -> None:
    _, statuses = answered(*[LARGE] * 8, *[SMALL] * 8, queue_size=8)
    assert statuses[:8] == [200] * 5 + [503] * 3
    assert statuses[8:] == [200] * 3 + [503] * 5


def test_classification_goes_on_between_two_passes_of_an_explanation() -> None:
    batches, _ = answered(WHY, during=(SMALL, LARGE))
    assert batches == [["why"], ["small"], ["large"], ["explained"]]


def test_explanations_are_made_one_at_a_time_and_come_to_their_turn() -> None:
    batches, statuses = answered(WHY, WHY, SMALL, SMALL, LARGE)
    assert set(statuses) == {200}
    assert batches[:3] == [["why"], ["large", "small", "small"], ["explained"]]
    assert batches[3:] == [["why"], ["explained"]]


def test_more_explanations_than_may_wait_are_refused_and_others_are_not() -> None:
    _, statuses = answered(*[WHY] * (batching.MOST_EXPLANATIONS + 2), SMALL)
    assert statuses == [200] * batching.MOST_EXPLANATIONS + [429] * 2 + [200]


def batches_of(clients: int, questions: int) -> list[list[str]]:
    """What was made of so many clients, each of which asks again when it is answered; others are waited for
    without an end."""
    model = Model()

    async def client(asked: Batcher) -> None:
        for _ in range(questions):
            await asked.ask(SMALL)

    async def ask() -> None:
        asked = Batcher(lambda: model, Batching(8, delay_s=3600))  # type: ignore[arg-type, return-value]
        asked.service = model  # type: ignore[assignment]
        waiting = [asyncio.create_task(client(asked)) for _ in range(clients)]
        await asyncio.sleep(0)
        working = asyncio.create_task(asked.work())
        async with asyncio.timeout(60):
            await asyncio.gather(*waiting)
        working.cancel()

    asyncio.run(ask())
    return model.batches


def test_a_lone_client_does_not_wait_for_others() -> None:
    assert batches_of(1, 3) == [["small"]] * 3


def test_clients_that_were_there_are_waited_for_and_no_longer_than_until_they_come() -> None:
    assert batches_of(3, 4) == [["small"] * 3] * 4
