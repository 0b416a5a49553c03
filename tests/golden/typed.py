"""Typed objects of an SDK as JSON that names their types, so that two of them can be compared."""

from typing import Any

from pydantic import BaseModel


def typed(value: Any) -> Any:
    """A typed object as JSON that names its types; what is not said and what is null are the same to the SDK's user."""
    if isinstance(value, BaseModel):
        members = dict(value.__dict__) | (value.__pydantic_extra__ or {})
        said = {name: typed(member) for name, member in members.items() if member is not None}
        return {"(type)": type(value).__name__.partition("[")[0]} | said
    if isinstance(value, dict):
        return {name: typed(member) for name, member in value.items()}
    return [typed(member) for member in value] if isinstance(value, list | tuple) else value
