"""Tells waiting streams that something was committed."""

import asyncio
from contextlib import suppress


class Commits:
    """Set from the writer's thread, awaited by streams. A waiter costs no thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self.closing = False

    def attach(self) -> None:
        """Belongs to the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Something was committed (called from any thread)."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and with it everybody who waits
                self._loop.call_soon_threadsafe(self._fire)

    def close(self) -> None:
        """Streams end."""
        self.closing = True
        self._fire()

    def _fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def mark(self) -> asyncio.Event:
        """Taken before one looks: what is committed from then on ends the wait."""
        return self._event

    async def wait(self, mark: asyncio.Event, seconds: float) -> None:
        """Until the next commit after ``mark``, at most so long."""
        if self.closing:
            return
        try:
            await asyncio.wait_for(mark.wait(), seconds)
        except TimeoutError:
            return
