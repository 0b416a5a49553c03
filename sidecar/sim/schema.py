"""The smallest value that a JSON schema admits, and the smallest change that breaks it.

Covers what structured output and tool definitions use: type, properties, required, enum, const, items, minItems,
minimum, minLength, anyOf/oneOf/allOf, local $ref. Other keywords are ignored: the instance may then be too small.
"""

from collections.abc import Mapping

Schema = Mapping[str, object]
_DEPTH = 12  # deeper schemas are recursive ones: null ends them


def instance(schema: object, root: object = None, depth: int = 0) -> object:
    """A minimal instance of `schema`; None where the schema says nothing or is too deep."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return None
    if "$ref" in schema:
        return instance(_resolve(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return _first(schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return instance(_first(schema[key]), root, depth + 1)
    return _of_type(schema, root, depth)


def broken(value: object) -> object:
    """The instance with its first member gone, or a value of another type when it has none."""
    if isinstance(value, Mapping) and value:
        first = next(iter(value))
        return {key: item for key, item in value.items() if key != first}
    return [] if isinstance(value, Mapping) else {"unexpected": value}


def _of_type(schema: Schema, root: object, depth: int) -> object:
    kind = schema.get("type", "object" if "properties" in schema else None)
    match str(_first(kind) if isinstance(kind, list) else kind).lower():  # Gemini's own schemas say OBJECT
        case "object":
            return _object(schema, root, depth)
        case "array":
            least = _number(schema, "minItems", 0)
            return [instance(schema.get("items"), root, depth + 1) for _ in range(int(least))]
        case "string":
            return "Paris".ljust(int(_number(schema, "minLength", 0)), "s")
        case "integer":
            return int(_number(schema, "minimum", 1))
        case "number":
            return float(_number(schema, "minimum", 1))
        case "boolean":
            return True
        case _:
            return None


def _object(schema: Schema, root: object, depth: int) -> dict[str, object]:
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    return {str(key): instance(properties.get(key), root, depth + 1) for key in required}


def _resolve(reference: str, root: object) -> object:
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _first(items: object) -> object:
    return items[0] if isinstance(items, list) and items else None


def _number(schema: Schema, key: str, default: float) -> float:
    value = schema.get(key, default)
    return value if isinstance(value, int | float) else default
