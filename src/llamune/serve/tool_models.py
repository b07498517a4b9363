"""Functions that a model may call, as both APIs write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NamedChoice", "Tool", "ToolChoice", "plain_tools"]

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Function(BaseModel):
    """A function; `parameters` is a JSON schema."""

    model_config = ConfigDict(extra="allow")

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """One function that may be called."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


class ChosenFunction(BaseModel):
    """The function that is to be called."""

    name: Name


class NamedChoice(BaseModel):
    """The wish that one function be called."""

    type: Literal["function"] = "function"
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


def plain_tools(tools: list[Tool] | None) -> tuple[dict[str, Any], ...]:
    """Return tools as the client wrote them."""
    return tuple({"type": tool.type, **tool.model_dump(exclude_unset=True)} for tool in tools or ())
