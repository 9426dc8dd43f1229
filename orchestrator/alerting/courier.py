"""Brings word of alerts to where it is wanted: at least once, each message under an id that stays the same.

Each channel has a courier of its own, a thread that is woken by commits: a target that is slow, hangs or refuses keeps
word from no other. While a message is on its way no session is open.
"""

import logging
import threading
import time
from collections.abc import Mapping

from orchestrator.alerting import outbox
from orchestrator.alerting.sending import Gone, Sending
from orchestrator.alerting.targets import NotTaken, Target
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.models import OutboxMessage

log = logging.getLogger(__name__)
DEADLINE = 20.0  # seconds for one message, whatever the target does
RETRY = 10.0
SHORTEST, LONGEST = 1.0, 3600.0  # between two looks into the outbox that nothing wakes
ENDS_WITHIN = 5.0  # seconds that the server's end waits for a courier whose database gives no answer


class Couriers:
    """A courier for each target that is configured, and for each that a message still waits for."""

    def __init__(self, db: Database, targets: Mapping[str, Target], deadline: float = DEADLINE) -> None:
        with db.read() as session:
            channels = dict.fromkeys([*targets, *outbox.channels(session)])
        self._couriers = [Courier(db, name, targets.get(name, Gone()), deadline) for name in channels]

    def start(self) -> None:
        """Sends in threads, until ``close``."""
        for courier in self._couriers:
            courier.start()

    def wake(self) -> None:
        """Something was committed: there may be a message."""
        for courier in self._couriers:
            courier.wake()

    def close(self) -> None:
        """Ends the threads. A message that is on its way is sent again by the next server, unless it was taken."""
        for courier in self._couriers:
            courier.end()
        for courier in self._couriers:
            courier.join()

    def once(self) -> None:
        """Sends what is due, to all at the same time, for who has no loop."""
        threads = [threading.Thread(target=courier.pass_once, daemon=True) for courier in self._couriers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Courier:
    """Sends what the outbox holds for one channel."""

    def __init__(self, db: Database, channel: str, target: Target, deadline: float = DEADLINE) -> None:
        self._db = db
        self._channel = channel
        self._target = target
        self._deadline = deadline
        self._failures = 0  # in a row, whatever the messages were
        self._rests_until = 0.0
        self._taken: set[str] = set()  # sent, and not recorded yet: the disk was full, say
        self._wakeup = threading.Event()
        self._over = threading.Event()  # a message is no more on its way, or need not be waited for
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sends in a thread, until ``end``."""
        self._thread = threading.Thread(target=self._loop, name=f"courier-{self._channel}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be a message."""
        self._wakeup.set()

    def end(self) -> None:
        """Asks the thread to end."""
        self._closing = True
        self._over.set()
        self._wakeup.set()

    def join(self) -> None:
        """Waits until the thread has ended, for a while."""
        if self._thread is not None:
            self._thread.join(ENDS_WITHIN)

    def _loop(self) -> None:
        while True:
            self._wakeup.clear()
            if self._closing:
                return
            self._wakeup.wait(self.pass_once())

    def pass_once(self) -> float:
        """``once``, whatever happens."""
        try:
            return self.once()
        except OrcError as error:  # the database is away, say: tried again
            log.error("messages to %s could not be sent: %s", self._channel, error.message)
        except Exception:
            log.exception("messages to %s could not be sent", self._channel)
        return RETRY

    def once(self) -> float:
        """Sends what is due, what waits longest first. Answers after how many seconds more is."""
        if self._rests() > 0:
            return max(SHORTEST, self._rests())
        now = time.time()
        with self._db.read() as session:
            due = outbox.due(session, now, self._channel)
            later = outbox.next_at(session, self._channel)
        for message in due:
            if self._closing or self._rests() > 0:
                break
            self._deliver(message)
        if due:
            return max(0.0, self._rests())
        return LONGEST if later is None else min(LONGEST, max(SHORTEST, later - now))

    def _rests(self) -> float:
        """For how many seconds more nothing is sent: the target has not taken the last message."""
        return self._rests_until - time.monotonic()

    def _deliver(self, message: OutboxMessage) -> None:
        """One try, and what came of it."""
        refusal = None if message.id in self._taken else self._tried(message)
        if refusal is _UNKNOWN:
            return
        if refusal is None:
            self._failures = 0
            self._taken.add(message.id)  # whether or not that can be stored now, it is not sent again from here
            self._db.write(lambda session: outbox.delivered(session, message.id))
            self._taken.discard(message.id)
            return
        self._refused(message, refusal)

    def _refused(self, message: OutboxMessage, refusal: NotTaken) -> None:
        """The target rests; the message goes to the back, so that it keeps no other from being tried."""
        self._failures += 1
        self._rests_until = time.monotonic() + outbox.wait(self._failures, refusal.after)
        words = refusal.message
        log.warning("%s has not taken word of alert %s: %s", self._channel, message.alert_id, words)
        self._db.write(
            lambda session: outbox.failed(
                session, message.id, words, time.time(), final=refusal.final, after=refusal.after
            )
        )

    def _tried(self, message: OutboxMessage) -> NotTaken | None:
        sending = Sending(self._target, message.payload, self._over)
        until = time.monotonic() + self._deadline
        while not sending.done and not self._closing and (left := until - time.monotonic()) > 0:
            self._over.wait(left)
            self._over.clear()
        if sending.done:
            return sending.refusal
        return _UNKNOWN if self._closing else NotTaken(f"No answer within {self._deadline:g} s.")


_UNKNOWN = NotTaken("The server ended meanwhile.")
