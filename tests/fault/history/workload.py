"""The load of a run: every frontend acts for some annotators, all on the same sessions."""

from __future__ import annotations

import asyncio

from tests.fault.history.annotator import Annotator
from tests.fault.history.desk import Desk
from tests.fault.history.frontend import Frontend

ANNOTATORS = 5
"""Of each frontend; half of them are the next one's, too."""


async def work(frontends: list[Frontend]) -> None:
    """Let every annotator of every frontend work until the attempts are spent."""
    desk = Desk()
    annotators = [
        Annotator(f"ann-{2 * frontend.number + n}", frontend, desk)
        for frontend in frontends
        for n in range(ANNOTATORS)
    ]
    async with asyncio.TaskGroup() as tasks:
        for annotator in annotators:
            tasks.create_task(annotator.work())
