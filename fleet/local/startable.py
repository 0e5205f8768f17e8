"""Starts parts by `async with`, and ends them in the reverse order, also where the start fails half-way."""

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import Self


class Startable(ABC):
    """`_start` begins everything, and pushes onto `_stack` how to end it, step by step."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _start(self) -> None: ...
