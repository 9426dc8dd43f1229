"""What a tool says when its call failed: the service's own words, and what to do next."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.agenttools.shortening import LIMIT, cut, dumps, fit, without_nothing
from orchestrator.client import RequestFailed
from orchestrator.errors import AnswerLost, BadInput, OrcError, ServerUnreachable, UntrustedServer

MOST_SHOWN = 50  # differences of a refusal
MOST_WRONG = 10
_NEXT = {
    400: "That cannot follow its present status: look at it (run, sweep or plan) before you go on.",
    401: "Ask a person for a token that is valid: ORC_TOKEN_FILE of `orc mcp`, or the Authorization header of /mcp.",
    404: "The tools runs, sweeps, plans and alerts list the ids that there are.",
    409: "Look at what is there (run, sweep or plan); call again only after what is named has been mended.",
    413: "Send less in one call.",
    422: "Mend the fields that are named and call again.",
    500: "It is not your call that is wrong: tell a person to look into the server's log.",
    501: "Do without it, or ask a person to install what is missing.",
    503: "Nothing was stored: call again in a while.",
    507: "Nothing was stored: a person has to make room on the disk.",
}
_SCOPE = "Your token may not do this, and no tool changes that: ask a person to do it, or for a token with that scope."
_PERSON = "That is for a person to decide: tell them what is said here. There is no tool for it."
_NAME_A_PLAN = "Name the plan as plan_id (plans lists them); or save_plan, and tell a person to approve what it says."
_UNREACHABLE = "A person can start the server: `orc serve`, on the machine where its $ORC_HOME is."
_LOST = (
    "It may have been done all the same: look (run, runs, sweeps or plan) before you call again, or call again with "
    "the idempotency_key of the first call."
)
_AGAIN = "Nothing was changed: call it again."
_LISTS = {"run": "runs", "sweep": "sweeps", "plan": "plans", "alert": "alerts"}


def explain(error: OrcError, *, looks: bool = False) -> tuple[str, dict[str, Any]]:
    """The words for the model, and the same as data. ``looks``: of a tool that changes nothing."""
    words = f"{error.field}: {error.message}" if isinstance(error, BadInput) else error.message
    said: dict[str, Any] = {"error": cut(words, LIMIT // 2), "next": _next(error, looks=looks)}
    if isinstance(error, RequestFailed):
        said |= {"status": error.status, "plan_id": error.plan_id, "diff": error.diff, "amendment": error.amendment}
    said = fit(without_nothing(said), "orc plan amend shows all of it to a person")
    lines = [said["error"], said["next"]]
    lines += [_difference(item) for item in error.diff[:MOST_SHOWN]] if isinstance(error, RequestFailed) else []
    if "amendment" in said:
        lines.append(f"What would allow it: {dumps(said['amendment'])}")
    return cut("\n".join(lines), LIMIT), said


def misused(tool: str, error: ValidationError) -> tuple[str, dict[str, Any]]:
    """The same for a call whose arguments the tool does not take."""
    found = error.errors(include_url=False, include_context=False)
    wrong = [f"{'.'.join(map(str, item['loc']))}: {_misuse(item)}" for item in found[:MOST_WRONG]]
    wrong += [f"… {len(found) - MOST_WRONG} more"] if len(found) > MOST_WRONG else []
    words = cut(f"{tool} was called with what it does not take:\n" + "\n".join(wrong), LIMIT // 2)
    said = {"error": words, "next": _NEXT[422]}
    return f"{words}\n{said['next']}", said


def _misuse(item: Mapping[str, Any]) -> str:
    kind = str(item["loc"][-1]).removesuffix("_id") if item["loc"] else ""
    if item["type"] == "string_pattern_mismatch" and kind in _LISTS:
        return f"This is no id; the tool {_LISTS[kind]} lists those that there are."
    return str(item["msg"])


def _difference(item: dict[str, Any]) -> str:
    return f"- {item.get('field')}: the plan says {dumps(item.get('plan'))}, asked was {dumps(item.get('asked'))}"


def _next(error: OrcError, *, looks: bool) -> str:
    if isinstance(error, AnswerLost):
        return _AGAIN if looks else _LOST
    if isinstance(error, ServerUnreachable):
        return _UNREACHABLE
    if isinstance(error, UntrustedServer):
        return "Tell a person: this must not be worked around."
    if error.status == 403 and isinstance(error, RequestFailed) and error.diff:
        return (
            f"Ask for what the plan allows, or tell a person, who can allow it: `orc plan amend {error.plan_id}"
            f"{f' --refusal {error.refusal}' if error.refusal is not None else ''}`. There is no tool for that."
        )
    if error.status == 403 and "runs nothing any more" in error.message:
        return "Save another plan (save_plan), and tell a person to approve it."
    if error.status == 403 and "plan_id" in error.message:
        return _NAME_A_PLAN
    if error.status == 403:
        return _SCOPE if error.message.startswith("This needs the scope") else _PERSON
    if error.status == 404:
        return _where_it_is_listed(error.message)
    return _NEXT.get(error.status, "Tell a person.")


def _where_it_is_listed(message: str) -> str:
    if message == "Not Found" or message.startswith("There is nothing at "):
        return "This server is older than this tool and has no such thing: do without it."
    for kind, tool in _LISTS.items():
        if message.startswith(f"There is no {kind} "):
            return f"The tool {tool} lists the ids that there are."
    return _NEXT[404]
