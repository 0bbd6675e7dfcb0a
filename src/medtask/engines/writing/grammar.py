"""JSON schemas as grammars: compact JSON, and quotes that stand in the row's text letter by letter.

Grammars are written in llguidance's dialect of Lark (its docs/syntax.md). Whatever has no quote in
it is handed over as a JSON schema; what has one is spelled out, since JSON Schema has no word for
"a part of this text".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medtask.errors import InputError

Schema = Mapping[str, Any]

# No \u: half of a surrogate pair is valid JSON and no text.
_COMPACT = {"whitespace_flexible": False, "json_allowed_escapes": 'nrbtf\\"'}
_NO_RULES = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "$comment",
        "$defs",
        "$schema",
        "$id",
    }
)
_KNOWN = {
    "anyOf": frozenset({"anyOf"}),
    "oneOf": frozenset({"oneOf"}),
    "$ref": frozenset({"$ref"}),
    "object": frozenset({"type", "properties", "required", "additionalProperties"}),
    "array": frozenset({"type", "items", "minItems", "maxItems"}),
    "string": frozenset({"type", "quote", "minLength", "maxLength"}),
}


def has_quotes(schema: object) -> bool:
    """Whether any string of the schema has to be a quote."""
    if isinstance(schema, Mapping):
        return schema.get("quote") is True or any(has_quotes(part) for part in schema.values())
    return isinstance(schema, list | tuple) and any(map(has_quotes, schema))


def drop_quotes(schema: Schema) -> dict[str, Any]:
    """A schema without medtask's own word "quote", for engines that cannot hold a text to its
    record. A property of that name stays.
    """
    return {
        name: _drop_inside(value)
        for name, value in schema.items()
        if not (name == "quote" and isinstance(value, bool))
    }


def _drop_inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return drop_quotes(value)
    return [_drop_inside(part) for part in value] if isinstance(value, list | tuple) else value


def write_grammar(schema: Schema, text: str, *, space: bool = False) -> str:
    """The grammar of what satisfies the schema for a record with this text. ``space``: a space may
    stand before it.

    A quote is never empty, unless the text is. Its escapes are those of json.dumps(...,
    ensure_ascii=False), so what json.loads reads from it is a part of the text. InputError for a
    schema that asks for a quote within what is not known here (allOf, patternProperties and the
    like).
    """
    return _Grammar(schema, text).write(space)


class _Grammar:
    """Rules in the making: each part of the schema becomes a rule of its own, each $ref one for all
    its uses.
    """

    def __init__(self, schema: Schema, text: str) -> None:
        self.schema = schema
        self.text = text
        self.rules: list[str] = []
        self.names: dict[str, str] = {}

    def write(self, space: bool) -> str:
        start = self._add(self.schema)
        return "\n".join(
            [f"start: {_literal(' ') + '? ' if space else ''}{start}", *self.rules, ""]
        )

    def _add(self, schema: Schema) -> str:
        """The name of the rule for a part of the schema."""
        ref = schema.get("$ref") if self._has_quotes(schema, frozenset()) else None
        if ref in self.names:
            return self.names[ref]
        place = len(self.rules)
        name = f"part_{place}"
        self.rules.append("")  # kept free: the parts of this part come behind it
        if ref is not None:
            self.names[ref] = name
        self.rules[place] = f"{name}: {self._spell(schema)}"
        return name

    def _spell(self, schema: Schema) -> str:
        if not self._has_quotes(schema, frozenset()):
            shared = {"$defs": self.schema["$defs"]} if "$defs" in self.schema else {}
            return f"%json {json.dumps({**shared, **schema, 'x-guidance': _COMPACT})}"
        kinds = schema.get("type")
        if isinstance(kinds, list | tuple):
            return " | ".join(self._add({**schema, "type": kind}) for kind in kinds)
        kind = next((key for key in ("anyOf", "oneOf", "$ref") if key in schema), kinds)
        if kind == "null":
            return _literal("null")
        if strange := set(schema) - _NO_RULES - _KNOWN.get(str(kind), frozenset({"quote", "type"})):
            raise _refuse(", ".join(sorted(strange)))
        if kind not in _KNOWN:
            raise _refuse(f"the type {kind}" if kind else "no type")
        match kind:
            case "anyOf" | "oneOf":
                return " | ".join(self._add(part) for part in schema[kind])
            case "$ref":
                return self._add(self._resolve(schema["$ref"]))
            case "object":
                return self._spell_object(schema)
            case "array":
                return self._spell_array(schema)
        return self._spell_quote(schema)

    def _spell_object(self, schema: Schema) -> str:
        parts = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if schema.get("additionalProperties", False) is not False:
            raise _refuse("additionalProperties")
        if unknown := sorted(required - set(parts)):
            raise InputError(
                f"the schema requires {unknown[0]}, which is none of its properties",
                fix="add it to properties",
            )
        pairs = [
            (
                f"{_literal(json.dumps(key, ensure_ascii=False) + ':')} {self._add(part)}",
                key in required,
            )
            for key, part in parts.items()
        ]
        # A comma stands before every pair but the first one that is there, so that one has to be
        # known.
        bodies = [""] if not any(needed for _, needed in pairs) else []
        for first, (pair, needed) in enumerate(pairs):
            more = (f'("," {other})' + ("" if must else "?") for other, must in pairs[first + 1 :])
            bodies.append(" ".join([pair, *more]))
            if needed:
                break
        return f'"{{" ({" | ".join(body or _literal("") for body in bodies)}) "}}"'

    def _spell_array(self, schema: Schema) -> str:
        item = self._add(schema["items"])
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if most is not None and most < least:
            raise InputError(
                f"the schema asks for at least {least} and at most {most} items",
                fix="correct minItems or maxItems",
            )
        more = (
            f'("," {item}){{{max(0, least - 1)},{"" if most is None else max(0, int(most) - 1)}}}'
        )
        body = f"({item} {more})"
        return f'"[" {_literal("") if most == 0 else body if least else body + "?"} "]"'

    def _spell_quote(self, schema: Schema) -> str:
        least, most = schema.get("minLength", 1), schema.get("maxLength", "")
        if not self.text:
            return _literal('""')
        name = f"QUOTE_{least}_{most}"
        if name not in self.names:
            chunks = [json.dumps(character, ensure_ascii=False)[1:-1] for character in self.text]
            # An escape counts as the one character that it stands for.
            length = rf"/(?s:[^\\]|\\u[0-9a-f]{{4}}|\\[^u]){{{max(1, least)},{most}}}/"
            self.rules.append(
                f"{name}: %regex {json.dumps({'substring_chunks': chunks})} & {length}"
            )
            self.names[name] = name
        return f'"\\"" {name} "\\""'

    def _has_quotes(self, schema: object, seen: frozenset[str]) -> bool:
        """As has_quotes, and through references."""
        if isinstance(schema, Mapping):
            ref = schema.get("$ref")
            if (
                isinstance(ref, str)
                and ref not in seen
                and self._has_quotes(self._resolve(ref), seen | {ref})
            ):
                return True
            return schema.get("quote") is True or any(
                self._has_quotes(part, seen) for key, part in schema.items() if key != "$defs"
            )
        return isinstance(schema, list | tuple) and any(
            self._has_quotes(part, seen) for part in schema
        )

    def _resolve(self, ref: str) -> Schema:
        place: Any = self.schema
        for key in ref.removeprefix("#").strip("/").split("/"):
            place = place.get(key) if isinstance(place, Mapping) else None
        if not ref.startswith("#/") or not isinstance(place, Mapping):
            raise InputError(
                f"the schema refers to {ref}, which it does not hold",
                fix="put it under $defs of the same schema",
            )
        return place


def _refuse(what: str) -> InputError:
    return InputError(
        f"the schema asks for a quote where it also has {what}",
        fix="quote plain strings of closed objects and of lists",
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
