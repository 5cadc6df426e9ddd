"""Runs coroutines on the event loops that are supported."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], kind: str = "asyncio") -> T:
    """As `asyncio.run`, on a loop of this kind, with a time limit."""
    loop = new_loop(kind)
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 60))
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def new_loop(kind: str = "asyncio") -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    if sys.platform == "win32":
        pytest.skip("uvloop does not exist for Windows")
    import uvloop

    return uvloop.new_event_loop()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is true."""
    while not condition():  # noqa: ASYNC110 (conditions of other threads have no event)
        await asyncio.sleep(0.001)
