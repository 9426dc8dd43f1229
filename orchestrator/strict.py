"""Models that refuse what they do not know, and say what would be right."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, LiteralString, Self, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

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
            told = [_told(item, list(cls.model_fields)) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, told) from None


def _told(item: Mapping[str, Any], fields: Sequence[str]) -> InitErrorDetails:
    """The same error. That of a model within has its words already, which are kept."""
    context = {"words": _words(item, fields), **item.get("ctx", {})}
    kind = PydanticCustomError(cast("LiteralString", item["type"]), "{words}", context)
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])


def _words(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Where pydantic's own would not help: others."""
    if item["type"] == "extra_forbidden":
        close = get_close_matches(str(item["loc"][-1]), fields, 1)
        return f"There is no such field: did you mean {close[0]}?" if close else _there_are(fields)
    if item["type"] in NO_OBJECT and not item["loc"]:
        return "This must be an object with names and values."
    return str(item["msg"]).removeprefix("Value error, ")


def _there_are(fields: Sequence[str]) -> str:
    return f"There is no such field; there are {', '.join(fields)}."
