"""Who may: tokens. Only hashes are compared, in constant time."""

import hashlib
import hmac

from orchestrator.errors import Unauthorized
from orchestrator.journal import Actor


class Access:
    """Knows the tokens. For now the first admin token alone."""

    def __init__(self, admin_token: str) -> None:
        self._admin = _digest(admin_token)

    def actor(self, token: str | None) -> Actor:
        """Whose token it is. Raises Unauthorized for none or a wrong one."""
        if not token:
            raise Unauthorized(
                "This needs a token: send it as X-Auth-Token or as Authorization: Bearer. It is in $ORC_HOME/token."
            )
        if not hmac.compare_digest(_digest(token), self._admin):
            raise Unauthorized("The token is not one of this server's. It is in $ORC_HOME/token.")
        return Actor("token:admin")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
