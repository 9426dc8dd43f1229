"""Site and user profiles: a TOML file each, which says of ``profile: "a100"`` all that it stands for.

``$ORC_HOME/profiles/NAME.toml`` goes before ``/etc/orc/profiles/NAME.toml``. A profile has the fields of a run's terms
(resources, environment, env, retry, signal, launch, container, executor, priority, tags) and a ``description``. What
the request says itself goes before what its profile says, field by field of ``resources`` and ``env``.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from orchestrator.errors import BadInput
from orchestrator.shapes import RunTerms

Asked = TypeVar("Asked", bound=RunTerms)
MERGED = ("resources", "env")


class Profiles:
    """Those in a few folders, the first ones first. Read when asked for: they are small, and may change."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def names(self) -> list[str]:
        """All that there are."""
        return sorted({path.stem for folder in self._folders for path in folder.glob("*.toml")})

    def public(self) -> list[dict[str, Any]]:
        """Each with what it says."""
        return [self._shown(name) for name in self.names()]

    def _shown(self, name: str) -> dict[str, Any]:
        """One; a broken one says so and hides no other."""
        try:
            return {"name": name, **self._read(name)}
        except BadInput as error:
            return {"name": name, "problem": error.message}

    def apply(self, body: Asked) -> Asked:
        """The body over its profile. Raises BadInput for a profile that is not there, or cannot be."""
        if body.profile is None:
            return body
        said = {name: value for name, value in self._read(body.profile).items() if name != "description"}
        given = {name: getattr(body, name) for name in body.model_fields_set}
        for name in MERGED:
            if name in given and isinstance(said.get(name), dict):
                own = given[name] if isinstance(given[name], dict) else given[name].model_dump(exclude_unset=True)
                given[name] = said[name] | own
        try:
            terms = RunTerms.model_validate(
                said
                | {
                    name: _plain(value)
                    for name, value in given.items()
                    if name in RunTerms.model_fields and (name not in MERGED or isinstance(said.get(name, {}), dict))
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput("profile", f"Profile {body.profile!r} cannot be: {where}: {first['msg']}.") from None
        return body.model_copy(update={name: getattr(terms, name) for name in terms.model_fields_set})

    def _read(self, name: str) -> dict[str, Any]:
        for folder in self._folders:
            path = folder / f"{name}.toml"
            try:
                return tomllib.loads(path.read_text())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise BadInput("profile", f"{path} cannot be read: {error}.") from None
        raise BadInput("profile", f"There is no profile {name!r}.", self.names())


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value
