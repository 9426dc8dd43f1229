"""When the service was last used, so that one that was started on demand can end by itself."""

import time


class Activity:
    """The last request that needed a token."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def touch(self) -> None:
        """Used just now."""
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """How long ago that was."""
        return time.monotonic() - self._last
