"""Brings word of alerts to where it is wanted: at least once, each message under an id that stays the same.

A thread, woken by commits. While a message is on its way no session is open, and it has a thread of its own: a target
that hangs holds up neither the server's end nor, for longer than a deadline, the other targets.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.alerting import outbox
from orchestrator.alerting.targets import NotTaken, Target
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.models import OutboxMessage

log = logging.getLogger(__name__)
DEADLINE = 20.0  # seconds for one message, whatever the target does
RETRY = 10.0
SHORTEST, LONGEST = 1.0, 3600.0  # between two looks into the outbox that nothing wakes


class Courier:
    """Sends what the outbox holds."""

    def __init__(self, db: Database, targets: Mapping[str, Target], deadline: float = DEADLINE) -> None:
        self._db = db
        self._targets = targets
        self._deadline = deadline
        self._resting: dict[str, float] = {}
        self._wakeup = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sends in a thread, until ``close``."""
        self._thread = threading.Thread(target=self._loop, name="courier", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was committed: there may be a message."""
        self._wakeup.set()

    def close(self) -> None:
        """Ends the thread. A message that is on its way is sent again by the next server, unless it was taken."""
        self._closing = True
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            self._wakeup.clear()
            if self._closing:
                return
            try:
                pause = self.once()
            except OrcError as error:  # the database is away, say: tried again
                log.error("messages could not be sent: %s", error.message)
                pause = RETRY
            except Exception:
                log.exception("messages could not be sent")
                pause = RETRY
            self._wakeup.wait(pause)

    def once(self) -> float:
        """Sends what is due, oldest first. Answers after how many seconds more is."""
        now = time.time()
        self._resting = {channel: until for channel, until in self._resting.items() if until > now}
        with self._db.read() as session:
            due = outbox.due(session, now, self._resting)
            later = outbox.next_at(session, self._resting)
        for message in due:
            if self._closing:
                break
            if message.channel not in self._resting:
                self._deliver(message)
        if due:
            return 0.0
        moments = [*self._resting.values(), now + LONGEST if later is None else later]
        return max(SHORTEST, min(moments) - now)

    def _deliver(self, message: OutboxMessage) -> None:
        """One try, and what came of it. A target that has not taken a message rests, with all that it is to get."""
        refusal = self._tried(message)
        if self._closing and refusal is _UNKNOWN:
            return
        if refusal is None:
            self._db.write(lambda session: outbox.delivered(session, message.id, time.time()))
            return
        words, final = refusal.message, refusal.final
        log.warning("%s has not taken word of alert %s: %s", message.channel, message.alert_id, words)
        again = self._db.write(lambda session: outbox.failed(session, message.id, words, time.time(), final=final))
        if again is not None:
            self._resting[message.channel] = again

    def _tried(self, message: OutboxMessage) -> NotTaken | None:
        target = self._targets.get(message.channel)
        if target is None:
            return NotTaken("No such target is configured any more (notify_webhooks, notify_apprise).")
        sending = _Sending(target, message.payload, self._wakeup)
        until = time.monotonic() + self._deadline
        while not sending.done and not self._closing and (left := until - time.monotonic()) > 0:
            self._wakeup.wait(left)
            self._wakeup.clear()
        if sending.done:
            return sending.refusal
        return _UNKNOWN if self._closing else NotTaken(f"No answer within {self._deadline:g} s.")


_UNKNOWN = NotTaken("The server ended meanwhile.")


class _Sending(threading.Thread):
    """One message on its way."""

    def __init__(self, target: Target, payload: Mapping[str, Any], over: threading.Event) -> None:
        super().__init__(name="courier-sending", daemon=True)
        self._target = target
        self._payload = payload
        self._over = over
        self.refusal: NotTaken | None = None
        self.done = False
        self.start()

    def run(self) -> None:
        """Sends it."""
        try:
            self._target.send(self._payload)
        except NotTaken as error:
            self.refusal = error
        except Exception as error:  # a target's own defect, say: told by its kind alone, its words may hold the address
            self.refusal = NotTaken(f"It could not be sent ({type(error).__name__}).")
        self.done = True
        self._over.set()
