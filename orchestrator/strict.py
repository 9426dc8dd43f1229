"""Models that refuse what they do not know, and say what would be right."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, LiteralString, Self, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MOST_TOLD = 100  # more errors than this nobody mends at once
LONGEST_NAME = 60  # characters: a longer one is nobody's slip of the finger
NO_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})


class Strict(BaseModel):
    """A model without fields besides its own. What is wrong is told at the same places, in words for people."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            found = error.errors(include_url=False)[:MOST_TOLD]
            told = [_told(item, list(cls.model_fields)) for item in found]
            raise ValidationError.from_exception_data(cls.__name__, told) from None


def _told(item: Mapping[str, Any], fields: Sequence[str]) -> InitErrorDetails:
    """The same error. That of a model within has its words already, which are kept."""
    context = {"words": _words(item, fields), **item.get("ctx", {})}
    kind = PydanticCustomError(cast("LiteralString", item["type"]), "{words}", context)
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])


def _words(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Where pydantic's own would not help: others."""
    if item["type"] == "extra_forbidden":
        return f"There is no such field{meant(str(item['loc'][-1]), fields)}"
    if item["type"] in NO_OBJECT and not item["loc"]:
        return "This must be an object with names and values."
    return str(item["msg"]).removeprefix("Value error, ")


def meant(name: str, names: Sequence[str]) -> str:
    """The end of a sentence that says that there is no such name: which one was meant, else which ones there are."""
    close = get_close_matches(name, names, 1) if len(name) <= LONGEST_NAME else []
    if close:
        return f": did you mean {close[0]}?"
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names)}." if names else "."
