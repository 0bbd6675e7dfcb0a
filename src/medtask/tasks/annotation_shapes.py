"""Shapes of gold and options in exports of annotation tools and in public data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medtask.display import format_name
from medtask.tasks.containers import parse_container

# Keys of the value in an annotation: Label Studio, doccano, Argilla, Prodigy.
_VALUE_KEYS = ("choices", "choice", "labels", "label", "value", "text", "accept")
# Keys of an annotation of a part of the text or of an image, which is not gold of a row.
_SPAN_KEYS = frozenset(("start", "end", "points", "x", "y", "score", "start_offset", "end_offset"))
_WITHDRAWN = frozenset(("discarded", "draft"))  # values of Argilla's "status"
_OPTION_KEYS = ("key", "label", "letter", "id", "option_id", "index")
_OPTION_TEXTS = ("value", "text", "content", "option", "answer")
_MAX_KEYS = 6

OptionPairs = list[tuple[str | None, object]]


def read_annotations(cell: object) -> list[object] | None:
    """The values in a cell that is a list, or an annotation tool's object.

    One-element lists, ``{"choices": [...]}`` and Label Studio's ``annotations``, doccano's lists,
    Argilla's responses and ``{"value": ...}``. Several annotators must agree.

    Returns:
        The values (an empty list if no value was given); None if the cell is not a list or an
        object, has another shape, or holds annotators who disagree.
    """
    container = parse_container(cell)
    if container is None:
        return None
    try:
        return _read_values(container)
    except ValueError:
        return None


def _read_values(value: object) -> list[object]:
    """The values of an annotation. Raises ValueError if its shape is not known."""
    if isinstance(value, Mapping):
        return _read_object(value)
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    if not any(isinstance(item, Mapping | list | tuple) for item in value):
        return [item for item in value if item is not None]
    if not all(isinstance(item, Mapping) for item in value):
        raise ValueError(value)
    votes = [_read_object(item) for item in value if not _is_withdrawn(item)]
    if len({tuple(sorted(map(str, vote))) for vote in votes}) > 1:
        raise ValueError(value)  # annotators disagree
    return votes[0] if votes else []


def _is_withdrawn(annotation: Mapping[object, object]) -> bool:
    return bool(annotation.get("was_cancelled")) or annotation.get("status") in _WITHDRAWN


def _read_object(annotation: Mapping[object, object]) -> list[object]:
    if _SPAN_KEYS & annotation.keys():
        raise ValueError(annotation)
    if "result" in annotation:  # an annotation of Label Studio
        return _read_values(annotation["result"])
    known = [key for key in _VALUE_KEYS if key in annotation]
    if len(known) == 1:
        return _read_values(annotation[known[0]])
    if len(annotation) == 1 and not known:  # Argilla's responses by question
        (inner,) = annotation.values()
        if isinstance(inner, list) and inner and all(isinstance(one, Mapping) for one in inner):
            return _read_values(inner)
    raise ValueError(annotation)


def read_option_pairs(container: list[object] | dict[object, object]) -> OptionPairs:
    """Options as pairs of a key (None without one) and a text, from the shapes of data sets.

    ``{"A": "text"}``, ``["text"]``, ``[{"key": "A", "value": "text"}]``, ``[["A", "text"]]``,
    ``[{"A": "text"}]``, and ``{"label": ["A"], "text": ["text"]}``. Other shapes are returned as
    they are, item by item.
    """
    if isinstance(container, dict):
        columns = _read_option_columns(container)
        return columns or [(str(key), text) for key, text in container.items()]
    return [_read_option_item(item) for item in container]


def _read_option_columns(container: Mapping[object, object]) -> OptionPairs:
    """Pairs from parallel lists of keys and texts; empty if the mapping has another shape."""
    lists = {str(key): value for key, value in container.items() if isinstance(value, list)}
    texts = next((lists[name] for name in _OPTION_TEXTS if name in lists), None)
    if texts is None or len(lists) != len(container):
        return []
    keys = next((lists[name] for name in _OPTION_KEYS if name in lists), [None] * len(texts))
    if len(keys) != len(texts):
        return []
    return [
        (None if key is None else str(key), text) for key, text in zip(keys, texts, strict=True)
    ]


def _read_option_item(item: object) -> tuple[str | None, object]:
    if isinstance(item, Mapping):
        text = next((name for name in _OPTION_TEXTS if name in item), None)
        if text is not None:
            key = next((item[name] for name in _OPTION_KEYS if name in item), None)
            return (None if key is None else str(key)), item[text]
        if len(item) == 1:
            ((key, inner),) = item.items()
            return str(key), inner
    if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str):
        return item[0], item[1]
    return None, item


def describe_shape(cell: object) -> str:
    """The shape of a list or an object, without its values; "" for other cells.

    For example "a list of 2 objects with the keys start, end, label".
    """
    container = parse_container(cell)
    if isinstance(container, dict):
        return f"an object with {_list_keys([container])}"
    if not isinstance(container, list):
        return ""
    objects = [item for item in container if isinstance(item, Mapping)]
    if objects and len(objects) == len(container):
        return f"a list of {len(objects):,} objects with {_list_keys(objects)}"
    if container and all(isinstance(item, list | tuple) for item in container):
        return f"a list of {len(container):,} lists"
    return f"a list of {len(container):,} values"


def _list_keys(objects: Sequence[Mapping[object, object]]) -> str:
    keys = list(dict.fromkeys(format_name(key, 20) for one in objects for key in one))
    more = ", …" if len(keys) > _MAX_KEYS else ""
    return f"the keys {', '.join(keys[:_MAX_KEYS])}{more}" if keys else "no keys"
