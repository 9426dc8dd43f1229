"""Briefs for agents: texts that ship with the package, with variables filled in, once: what is filled in is text."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data import shipped
from orchestrator.errors import NotFound

_VARIABLE = re.compile(r"\{\{([a-z_]+)\}\}")
_HEAD = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Skill:
    """One brief. ``text``: its markdown with ``{{variables}}``, without the head."""

    name: str
    description: str
    variables: tuple[str, ...]
    text: str

    def render(self, values: Mapping[str, str]) -> str:
        """The text with its variables filled in; one without a value stays as it is."""
        return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), self.text)

    def file(self, values: Mapping[str, str]) -> str:
        """As a SKILL.md."""
        return f"---\nname: orc-{self.name}\ndescription: {self.description}\n---\n{self.render(values)}"


def everything() -> list[Skill]:
    """All that there are, by name."""
    return [_read(path) for path in sorted((shipped("config") / "skills").glob("*/SKILL.md"))]


def get(name: str) -> Skill:
    """One. Raises NotFound."""
    for skill in everything():
        if skill.name == name:
            return skill
    raise NotFound("skill", name)


def _read(path: Path) -> Skill:
    text = path.read_text()
    head = _HEAD.match(text)
    if head is None:
        raise ValueError(f"{path} has no head between two lines of ---.")
    fields = dict(line.partition(": ")[::2] for line in head[1].splitlines())
    variables = tuple(name.strip() for name in fields["variables"].split(","))
    return Skill(fields["name"], fields["description"], variables, text[head.end() :])


def unfilled(skill: Skill, token: Path, header: Path) -> dict[str, str]:
    """What stands for the variables in a file that is read without a server. ``token``: the reader's file; ``header``:
    the same for curl."""
    render = f'ORC_TOKEN_FILE={shlex.quote(str(token))} orc skill render {skill.name} --goal "…"'
    live = f"(Live: `{render}` prints this text with all of it filled in.)"
    return dict.fromkeys(skill.variables, live) | {
        "goal": "(What you were asked for.)",
        "server_url": "$ORC_URL",
        "auth_header": f"-H {shlex.quote(f'@{header}')}",
        "auth_token": "not shown",
    }
