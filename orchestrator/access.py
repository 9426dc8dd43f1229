"""Who may do what: tokens and their scopes. Only hashes are kept and compared."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.errors import Forbidden, Unauthorized
from orchestrator.journal import Actor
from orchestrator.models import Token

# Each token may read. "plan": write plans, look at the machine; "run": make, start and stop runs; "approve": approve
# and amend plans; "admin": all of it, tokens and the cluster's type too.
SCOPES = ("read", "plan", "run", "approve", "admin")
ADMIN = "admin"


@dataclass(frozen=True)
class Identity:
    """Whose request it is. ``require_plan``: its runs need an approved plan. ``expires_at``: epoch seconds."""

    name: str
    scopes: frozenset[str]
    require_plan: bool = False
    expires_at: float | None = None

    @property
    def actor(self) -> Actor:
        """How the journal names it."""
        return Actor(f"token:{self.name}")

    def may(self, scope: str) -> bool:
        """Whether the scope is among its own."""
        return scope == "read" or scope in self.scopes or ADMIN in self.scopes

    def check_own(self, what: str, made_by: str) -> None:
        """Raises Forbidden where it may not change what somebody else made: who needs a plan changes its own alone,
        unless it could approve one."""
        if self.require_plan and not self.may("approve") and made_by != self.actor:
            raise Forbidden(f"{what} is {made_by}'s: {self.name!r} changes only what it made itself.")

    def check(self, scope: str) -> None:
        """Raises Forbidden where it may not."""
        if not self.may(scope):
            has = ", ".join(sorted({"read", *self.scopes}))
            raise Forbidden(f"This needs the scope {scope!r}; the token {self.name!r} has {has}.")


class Access:
    """Knows the tokens that are valid; ``tokens`` reads those of the database."""

    def __init__(self, admin_token: str, tokens: Callable[[], Iterable[Token]], *, require_plan: bool = False) -> None:
        """``require_plan``: everybody's runs need an approved plan."""
        self._admin = digest(admin_token)
        self._tokens = tokens
        self._require_plan = require_plan
        self._known: dict[str, Identity] = {}
        self._reading = threading.Lock()
        self.changing = threading.Lock()  # held from the change of a token until its files say the same
        self.reload()

    def reload(self) -> None:
        """Reads them anew, after a change."""
        with self._reading:  # of two at once the later must not put the older rows back
            known = {row.hash: self._identity(row) for row in self._tokens() if row.revoked_at is None}
            self._known = known | {self._admin: Identity(ADMIN, frozenset({ADMIN}), self._require_plan)}

    def _identity(self, row: Token) -> Identity:
        return Identity(row.name, frozenset(row.scopes), row.require_plan or self._require_plan, row.expires_at)

    def renew_admin(self, token: str) -> None:
        """The first admin token is another from now on."""
        self._admin = digest(token)
        self.reload()

    def identify(self, token: str | None) -> Identity:
        """Whose token it is. Raises Unauthorized for none, a wrong, an expired or a revoked one.

        The look-up is by a SHA-256: how long it takes tells nothing of a token.
        """
        if not token:
            raise Unauthorized(
                "This needs a token: send the one that you were given, as X-Auth-Token or as Authorization: Bearer."
            )
        found = self._known.get(digest(token))
        if found is None:
            raise Unauthorized(
                "The token is not one of this server's, or was revoked. Who runs the server makes another with "
                "`orc token create`."
            )
        if found.expires_at is not None and found.expires_at <= time.time():
            raise Unauthorized(
                f"The token {found.name!r} has expired: `orc token rotate {found.name} --expires 12h` makes a new one."
            )
        return found

    def knows(self, token: str | None) -> bool:
        """Whether it is (still) a token that is good: a stream outlives the look at its beginning."""
        try:
            self.identify(token)
        except Unauthorized:
            return False
        return True


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
