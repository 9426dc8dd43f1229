"""One message on its way, in a thread of its own: a target that hangs holds up nobody for longer than a deadline."""

import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.alerting.targets import NotTaken, Target


class Sending(threading.Thread):
    """Sends one message. ``over`` is set when that is done; ``refusal`` then tells why it was not taken."""

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


class Gone:
    """In the place of a target that was configured when the message was stored, and is no more."""

    def send(self, payload: Mapping[str, Any]) -> None:
        """Takes nothing; it may come back while the message waits."""
        del payload
        raise NotTaken("No such target is configured any more (notify_webhooks, notify_apprise).")
