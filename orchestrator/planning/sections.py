"""What each section of a plan says, as JSON. Pure.

A reader takes the document, the section's part of it, and ``tell(line, message)`` for what is wrong.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.planning.document import Document, Item, Part, Table
from orchestrator.planning.values import (
    PARAMETER_NAME,
    NotValues,
    checkbox,
    coded,
    criterion,
    cut,
    labelled,
    once,
    parameter_name,
    placeholder,
    plain,
    split_dash,
    values,
    whole_number,
)

Tell = Callable[[int, str], None]
CLUSTERS = ("local_gpu", "slurm", "cpu_only")
LABELS = {"cluster type": "cluster_type", "gpu count": "gpu_count", "gpuwrap": "gpuwrap", "environment": "environment"}
COUNT = re.compile(r"(\d{1,6})(?:\s*[x×,;(]|\s+(?![-–—]|to\b|or\b)|$)")
BOLD = re.compile(r"\*\*([^*]+)\*\*")


def objective(document: Document, part: Part, _tell: Tell) -> str:
    """As it was written."""
    return cut(document.text(part))


def compute_setup(_document: Document, part: Part, tell: Tell) -> dict[str, Any]:
    """The four that the structure has, None where not said; whatever else is labelled, under ``other``."""
    found: dict[str, Any] = dict.fromkeys(LABELS.values())
    other: dict[str, str] = {}
    seen: set[str] = set()
    for item, label, raw in _labelled(part.items):
        key, text = LABELS.get(label), plain(raw)
        if key is None:
            shown = plain(item.text.partition(":")[0])
            other.setdefault(shown, text)
        elif _once(label, seen, item, tell) and not _left(item, label, raw, tell):
            found[key] = _setup_value(key, text, item, tell)
    return {**found, "other": other}


def _setup_value(key: str, text: str, item: Item, tell: Tell) -> Any:
    if key == "cluster_type":
        named = {word for word in re.findall(r"\w+", text.lower()) if word in CLUSTERS}
        if len(named) == 1:
            return named.pop()
        tell(item.line, f'The cluster type "{text[:80]}" is not one of {", ".join(CLUSTERS)}.')
        return None
    if key == "gpu_count":
        if count := COUNT.match(text):
            return int(count[1])
        tell(item.line, f'The GPU count "{text[:80]}" is not a number.')
        return None
    if key == "gpuwrap":
        word = re.match(r"(enabled|disabled)\b", text, re.IGNORECASE)
        return word[1].lower() if word else text or None
    return text or None


def approach(_document: Document, part: Part, _tell: Tell) -> list[dict[str, str]]:
    """The numbered steps: what each is called, and the rest."""
    return [_step(item) for item in part.items if item.ordered]


def _step(item: Item) -> dict[str, str]:
    bold = BOLD.match(item.text)
    if bold:
        title, rest = bold[1], item.text[bold.end() :].lstrip(" \t\n:-–—")
    else:
        title, rest = split_dash(item.text, colon=True)
    return {"title": plain(title).rstrip(": "), "text": cut("\n".join([rest.strip(), *_below(item)]).strip())}


def parameters(document: Document, part: Part, tell: Tell) -> list[dict[str, Any]]:
    """The rows of its tables; ``values`` is empty where they could not be read."""
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    for table in part.tables:
        rows += _table_rows(table, names, tell)
    some = any(part.begin < table.line <= part.end for table in document.tables)
    if not some and (part.items or "|" in document.text(part)):
        tell(part.begin, "The parameters are not a table with the columns Parameter, Values and Rationale.")
    return rows


def _table_rows(table: Table, names: set[str], tell: Tell) -> Iterator[dict[str, Any]]:
    header = [plain(cell).lower() for cell in table.header]
    missing = [name for name in ("Parameter", "Values") if name.lower() not in header]
    for name in missing:
        tell(table.line, f'The table has no column "{name}".')
    if missing:
        return
    columns = [header.index(name) if name in header else None for name in ("parameter", "values", "rationale")]
    for line, cells in table.rows:
        name_cell, value_cell, rationale = ("" if at is None else cells[at] for at in columns)
        if all(cell.strip(" .…") == "" for cell in cells):
            tell(line, "The table's row names no parameter.")
            continue
        name = parameter_name(name_cell)
        found = _row_values(name, value_cell, line, tell) if _named(name, names, line, tell) else []
        yield {"name": cut(name), "values": found, "rationale": plain(rationale), "line": line}


def _named(name: str, names: set[str], line: int, tell: Tell) -> bool:
    """Whether it is a parameter's name, and stands for the first time."""
    if not PARAMETER_NAME.fullmatch(name):
        tell(line, f'"{name[:80]}" is not a name of a parameter: letters, digits and _ . - / after a letter or _.')
        return False
    if name in names:
        tell(line, f'The parameter "{name}" stands a second time.')
        return False
    names.add(name)
    return True


def _row_values(name: str, cell: str, line: int, tell: Tell) -> list[Any]:
    try:
        found = values(cell)
    except NotValues as why:
        tell(line, f'The parameter "{name}" {why}.')
        return []
    kept, again = once(found)
    if again:
        tell(line, f'The parameter "{name}" has the value {str(again[0])[:80]} twice.')
    return kept


def metrics(_document: Document, part: Part, tell: Tell) -> dict[str, Any]:
    """The one that decides, and the others."""
    found: dict[str, list[dict[str, str]]] = {"primary": [], "secondary": []}
    seen: set[str] = set()
    left = False
    for item, label, raw in _labelled(part.items):
        role = next((role for role in found if label in {role, f"{role} metric", f"{role} metrics"}), None)
        if role is None or (role == "primary" and not _once(role, seen, item, tell)):
            continue
        for text in [raw] if raw else [child.text for child in item.children]:
            if _left(item, f"{role} metric", split_dash(text)[0], tell):
                left = left or role == "primary"
            else:
                found[role].append(_metric(text))
    if not found["primary"] and not left:
        tell(part.begin, 'There is no primary metric: "- **Primary**: <metric name> — <why this metric matters>".')
    return {"primary": found["primary"][0] if found["primary"] else None, "secondary": found["secondary"]}


def _metric(text: str) -> dict[str, str]:
    name, why = split_dash(text)
    return {"name": coded(name) or plain(name), "why": plain(why)}


def success_criteria(_document: Document, part: Part, tell: Tell) -> list[dict[str, Any]]:
    """Each item, and what it says of a metric where it does."""
    found = []
    for item in part.items:
        done, text = checkbox(item.text)
        if not text.strip() or _left(item, "criterion", text, tell):
            continue
        metric, operator, value = criterion(text)
        shown = cut(" ".join(text.split()))
        found.append(
            {"text": shown, "done": done, "metric": metric, "operator": operator, "value": value, "line": item.line}
        )
    if not part.items:
        tell(part.begin, 'There are no success criteria: "- [ ] val_loss < 0.5".')
    return found


def risks(_document: Document, part: Part, _tell: Tell) -> list[dict[str, str]]:
    """What may go wrong, and what is done about it."""
    return [_risk(item) for item in part.items]


def _risk(item: Item) -> dict[str, str]:
    text = plain("\n".join([item.text, *(child.text for child in item.children)]))
    at = text.lower().find("mitigation:")
    if at >= 0:
        risk, mitigation = text[:at], text[at + len("mitigation:") :]
    else:
        arrow = next((arrow for arrow in ("→", "->") if arrow in text), "→")
        risk, _, mitigation = text.partition(arrow)
    risk = risk.rstrip(" →->=").strip()
    if risk.lower().startswith("risk:"):
        risk = risk[len("risk:") :].strip()
    return {"risk": risk, "mitigation": mitigation.strip()}


def effort(_document: Document, part: Part, tell: Tell) -> dict[str, Any]:
    """How many runs, how long, on what."""
    found: dict[str, Any] = {"runs": None, "time": None, "resources": None}
    seen: set[str] = set()
    for item, label, raw in _labelled(part.items):
        if label in found and _once(label, seen, item, tell) and not _left(item, label, raw, tell):
            found[label] = whole_number(plain(raw)) if label == "runs" else plain(raw) or None
    return found


def improvements(_document: Document, part: Part, _tell: Tell) -> list[str]:
    """The items."""
    return [cut("\n".join([item.text, *_below(item)])) for item in part.items]


def line_of(part: Part, label: str) -> int:
    """The line of the item with this label, else that of the section."""
    return next((item.line for item, found, _ in _labelled(part.items) if found == label), part.begin)


def _labelled(items: list[Item]) -> Iterator[tuple[Item, str, str]]:
    for item in items:
        if found := labelled(item.text):
            yield item, *found


def _once(label: str, seen: set[str], item: Item, tell: Tell) -> bool:
    if label in seen:
        tell(item.line, f'"{label}" stands a second time.')
        return False
    seen.add(label)
    return True


def _left(item: Item, label: str, raw: str, tell: Tell) -> bool:
    """Whether the structure's own placeholder still stands there, as a problem."""
    if not placeholder(raw):
        return False
    tell(item.line, f'"{plain(raw)[:80]}" is the structure\'s own: write the {label}.')
    return True


def _below(item: Item) -> list[str]:
    """What stands in an item below its first paragraph, lists last."""
    texts, waiting = list(item.more), list(reversed(item.children))
    while waiting:
        child = waiting.pop()
        texts += [f"- {child.text}", *child.more]
        waiting += reversed(child.children)
    return texts


Reader = Callable[[Document, Part, Tell], Any]
READERS: dict[str, tuple[str, Reader]] = {
    "Objective": ("objective", objective),
    "Compute Setup": ("compute_setup", compute_setup),
    "Approach": ("approach", approach),
    "Parameters to Sweep": ("parameters", parameters),
    "Metrics": ("metrics", metrics),
    "Success Criteria": ("success_criteria", success_criteria),
    "Risks & Mitigations": ("risks", risks),
    "Estimated Effort": ("effort", effort),
    "💡 Workflow Improvements": ("improvements", improvements),
}
