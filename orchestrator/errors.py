"""What can go wrong, as a tree. An error's message says what was wrong, where, and what would be right.

OrcError
├── BadInput          422  a value that cannot be: names the field and the valid choices
├── BadTransition     400  a status that cannot follow the present one
├── Unauthorized      401  no token, or a wrong one
├── Forbidden         403  the token may not
│   └── OutsidePlan   403  the plan does not allow it: with the differences, and what would allow it
├── NotFound          404  no such run, sweep, plan, alert
├── Conflict          409  right in itself, but not together with what is there
├── StorageFull       507  the disk is full: nothing was stored
├── StorageError      503  the database cannot be written or read just now
├── ServerRunning     409  another server serves this database
├── ProbeFailed       503  a helper process died, hung or answered nonsense
├── SchedulerUnavailable 503  Slurm gives no answer: down, hung, not to be reached
├── BadSettings         -  what is set cannot be: no server starts
├── ServerUnreachable   -  client side: no server answers
│   └── AnswerLost      -  client side: it may have been carried out all the same
└── UntrustedServer     -  client side: what answers is not the user's own server
"""

from collections.abc import Mapping, Sequence


class OrcError(Exception):
    """Something went wrong in the orchestrator."""

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadInput(OrcError):
    """A value of the request cannot be.

    ``field`` is the dotted path in the body ("resources.gpus"); ``choices`` lists what would be right.
    """

    status = 422

    def __init__(self, field: str, message: str, choices: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.choices = list(choices)


class BadTransition(OrcError):
    """The status asked for cannot follow the present one."""

    status = 400


class Unauthorized(OrcError):
    """No token, or a wrong one."""

    status = 401


class Forbidden(OrcError):
    """The token may not do this."""

    status = 403


class OutsidePlan(Forbidden):
    """What was asked for departs from its plan.

    ``diff``: field by field what the plan says and what was asked; ``amendment``: what allows just that, as
    POST /plans/{id}/amendments takes it; ``asked_for``: whether it was more than a look; ``refusal``: its number, once
    it is kept.
    """

    def __init__(self, plan_id: str, message: str, diff: Sequence[object], amendment: Mapping[str, object]) -> None:
        super().__init__(message)
        self.plan_id = plan_id
        self.diff = list(diff)
        self.amendment = dict(amendment)
        self.asked_for = True
        self.refusal: int | None = None

    def kept(self, number: int | None) -> None:
        """It can be looked at, and allowed, under this number."""
        self.refusal = number
        if number is not None:
            self.message = f"{self.message.removesuffix('.')} --refusal {number}."


class NotFound(OrcError):
    """There is no such thing."""

    status = 404

    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(f"There is no {kind} {id_!r}.")


class Conflict(OrcError):
    """Right in itself, but not together with what is there.

    ``problems`` carries the single points where there are several.
    """

    status = 409

    def __init__(self, message: str, problems: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class StorageFull(OrcError):
    """The disk is full; nothing was stored."""

    status = 507


class StorageError(OrcError):
    """The database cannot be written or read just now; nothing was stored."""

    status = 503


class ServerRunning(OrcError):
    """Another server serves this database."""

    status = 409


class ProbeFailed(OrcError):
    """A helper process died, hung or answered nonsense."""

    status = 503


class SchedulerUnavailable(OrcError):
    """Slurm gives no answer: down, hung, not to be reached. What was asked may have been carried out all the same."""

    status = 503


class BadSettings(OrcError):
    """The settings cannot be what they are; each that is wrong has a line."""


class ServerUnreachable(OrcError):
    """No server answers."""


class AnswerLost(ServerUnreachable):
    """The server gave no answer to what was sent: it may have been carried out all the same."""


class UntrustedServer(OrcError):
    """What answers is not a server of this user."""
