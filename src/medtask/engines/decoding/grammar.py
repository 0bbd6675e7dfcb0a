"""Converts JSON schemas to grammars for compact JSON with verbatim quotes from a row's text.

Grammars are written in llguidance's dialect of Lark (its docs/syntax.md). Parts of a schema without
a quote are passed on as JSON schemas. Parts with a quote become grammar rules, since JSON Schema
cannot express "a substring of this text".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medtask.errors import InputError

JsonSchema = Mapping[str, Any]

# No \u: half of a surrogate pair is valid JSON but not a valid text.
_GUIDANCE_OPTIONS = {"whitespace_flexible": False, "json_allowed_escapes": 'nrbtf\\"'}
_ANNOTATION_KEYS = frozenset(
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
_SUPPORTED_KEYS = {
    "anyOf": frozenset({"anyOf"}),
    "oneOf": frozenset({"oneOf"}),
    "$ref": frozenset({"$ref"}),
    "object": frozenset({"type", "properties", "required", "additionalProperties"}),
    "array": frozenset({"type", "items", "minItems", "maxItems"}),
    "string": frozenset({"type", "quote", "minLength", "maxLength"}),
}


def has_quotes(schema: object) -> bool:
    """Whether any string of the schema must be a quote."""
    if isinstance(schema, Mapping):
        return schema.get("quote") is True or any(has_quotes(part) for part in schema.values())
    return isinstance(schema, list | tuple) and any(map(has_quotes, schema))


def remove_quote_keywords(schema: JsonSchema) -> dict[str, Any]:
    """Return the schema without medtask's keyword "quote", for engines that cannot restrict a
    string to substrings of the record. A property with that name is kept.
    """
    return {
        name: _remove_nested_quote_keywords(value)
        for name, value in schema.items()
        if not (name == "quote" and isinstance(value, bool))
    }


def _remove_nested_quote_keywords(value: Any) -> Any:
    if isinstance(value, Mapping):
        return remove_quote_keywords(value)
    if isinstance(value, list | tuple):
        return [_remove_nested_quote_keywords(part) for part in value]
    return value


def build_grammar(schema: JsonSchema, text: str, *, leading_space: bool = False) -> str:
    """Build the grammar of the JSON texts that satisfy a schema for a record with this text.

    A quote is not empty, unless the text is. Its escapes are those of json.dumps(...,
    ensure_ascii=False), so json.loads returns a substring of the text.

    Args:
        schema: The JSON schema.
        text: The record's text, from which quotes are taken.
        leading_space: Whether a space may precede the JSON.

    Raises:
        InputError: The schema has a quote within a keyword that is not supported here (allOf,
            patternProperties and others).
    """
    return _GrammarBuilder(schema, text).build(leading_space)


class _GrammarBuilder:
    """Collects the rules of a grammar: one for each part of the schema, and one for all uses of the
    same $ref.
    """

    def __init__(self, schema: JsonSchema, text: str) -> None:
        self.schema = schema
        self.text = text
        self.rules: list[str] = []
        self.rule_names: dict[str, str] = {}

    def build(self, leading_space: bool) -> str:
        start = self._add_rule(self.schema)
        space = _quote_literal(" ") + "? " if leading_space else ""
        return "\n".join([f"start: {space}{start}", *self.rules, ""])

    def _add_rule(self, schema: JsonSchema) -> str:
        """Add the rule for a part of the schema and return its name."""
        ref = schema.get("$ref") if self._has_quotes(schema, frozenset()) else None
        if ref in self.rule_names:
            return self.rule_names[ref]
        place = len(self.rules)
        name = f"part_{place}"
        self.rules.append("")  # reserves the name: the rules of nested parts follow it
        if ref is not None:
            self.rule_names[ref] = name
        self.rules[place] = f"{name}: {self._build_expression(schema)}"
        return name

    def _build_expression(self, schema: JsonSchema) -> str:
        if not self._has_quotes(schema, frozenset()):
            shared = {"$defs": self.schema["$defs"]} if "$defs" in self.schema else {}
            return f"%json {json.dumps({**shared, **schema, 'x-guidance': _GUIDANCE_OPTIONS})}"
        kinds = schema.get("type")
        if isinstance(kinds, list | tuple):
            return " | ".join(self._add_rule({**schema, "type": kind}) for kind in kinds)
        kind = next((key for key in ("anyOf", "oneOf", "$ref") if key in schema), kinds)
        if kind == "null":
            return _quote_literal("null")
        if (
            unsupported := set(schema)
            - _ANNOTATION_KEYS
            - _SUPPORTED_KEYS.get(str(kind), frozenset({"quote", "type"}))
        ):
            raise _make_unsupported_error(", ".join(sorted(unsupported)))
        if kind not in _SUPPORTED_KEYS:
            raise _make_unsupported_error(f"the type {kind}" if kind else "no type")
        match kind:
            case "anyOf" | "oneOf":
                return " | ".join(self._add_rule(part) for part in schema[kind])
            case "$ref":
                return self._add_rule(self._resolve_reference(schema["$ref"]))
            case "object":
                return self._build_object(schema)
            case "array":
                return self._build_array(schema)
        return self._build_quote(schema)

    def _build_object(self, schema: JsonSchema) -> str:
        parts = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if schema.get("additionalProperties", False) is not False:
            raise _make_unsupported_error("additionalProperties")
        if unknown := sorted(required - set(parts)):
            raise InputError(
                f"the schema requires {unknown[0]}, which is none of its properties",
                fix="add it to properties",
            )
        pairs = []
        for key, part in parts.items():
            name = _quote_literal(json.dumps(key, ensure_ascii=False) + ":")
            pairs.append((f"{name} {self._add_rule(part)}", key in required))
        # A comma precedes every pair but the first one present, so there is one alternative for
        # each pair that can be first.
        bodies = [""] if not any(needed for _, needed in pairs) else []
        for first, (pair, needed) in enumerate(pairs):
            more = (f'("," {other})' + ("" if must else "?") for other, must in pairs[first + 1 :])
            bodies.append(" ".join([pair, *more]))
            if needed:
                break
        return f'"{{" ({" | ".join(body or _quote_literal("") for body in bodies)}) "}}"'

    def _build_array(self, schema: JsonSchema) -> str:
        item = self._add_rule(schema["items"])
        min_items, max_items = int(schema.get("minItems", 0)), schema.get("maxItems")
        if max_items is not None and max_items < min_items:
            raise InputError(
                f"the schema asks for at least {min_items} and at most {max_items} items",
                fix="correct minItems or maxItems",
            )
        max_further = "" if max_items is None else max(0, int(max_items) - 1)
        further_items = f'("," {item}){{{max(0, min_items - 1)},{max_further}}}'
        body = f"({item} {further_items})"
        return (
            f'"[" {_quote_literal("") if max_items == 0 else body if min_items else body + "?"} "]"'
        )

    def _build_quote(self, schema: JsonSchema) -> str:
        min_length, max_length = schema.get("minLength", 1), schema.get("maxLength", "")
        if not self.text:
            return _quote_literal('""')
        name = f"QUOTE_{min_length}_{max_length}"
        if name not in self.rule_names:
            chunks = [json.dumps(character, ensure_ascii=False)[1:-1] for character in self.text]
            # An escape counts as one character.
            length = rf"/(?s:[^\\]|\\u[0-9a-f]{{4}}|\\[^u]){{{max(1, min_length)},{max_length}}}/"
            self.rules.append(
                f"{name}: %regex {json.dumps({'substring_chunks': chunks})} & {length}"
            )
            self.rule_names[name] = name
        return f'"\\"" {name} "\\""'

    def _has_quotes(self, schema: object, seen: frozenset[str]) -> bool:
        """Like has_quotes, but follows references."""
        if isinstance(schema, Mapping):
            ref = schema.get("$ref")
            if (
                isinstance(ref, str)
                and ref not in seen
                and self._has_quotes(self._resolve_reference(ref), seen | {ref})
            ):
                return True
            return schema.get("quote") is True or any(
                self._has_quotes(part, seen) for key, part in schema.items() if key != "$defs"
            )
        return isinstance(schema, list | tuple) and any(
            self._has_quotes(part, seen) for part in schema
        )

    def _resolve_reference(self, ref: str) -> JsonSchema:
        target: Any = self.schema
        for key in ref.removeprefix("#").strip("/").split("/"):
            target = target.get(key) if isinstance(target, Mapping) else None
        if not ref.startswith("#/") or not isinstance(target, Mapping):
            raise InputError(
                f"the schema refers to {ref}, which it does not hold",
                fix="put it under $defs of the same schema",
            )
        return target


def _make_unsupported_error(what: str) -> InputError:
    return InputError(
        f"the schema asks for a quote where it also has {what}",
        fix="quote plain strings of closed objects and of lists",
    )


def _quote_literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
