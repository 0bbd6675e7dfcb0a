"""Inputs of a review in a browser: what nobody has changed is saved as it was."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.server.access.roles import Role
from support.live_server import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_SAVE = """async ([schema, value]) => {
  const { buildInput } = await import("/static/review/inputs.js");
  let saved;
  const form = { input: "object", schema };
  const item = { model: { value } };
  buildInput(document.createElement("div"), item, form, (one) => { saved = one; }).enter();
  return saved;
}"""
_TEXTS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"type": "string"}, "pain\nat rest"),
        ({"type": "string", "maxLength": 60}, "pain\nat rest"),
        ({"type": "string", "format": "date"}, None),
        ({"type": "string", "format": "date"}, "2024-02-29"),
        ({"type": "string", "format": "date"}, "2024-02-31"),
        ({"type": "string", "format": "date"}, "March 2024"),
        (_TEXTS, ["pain", "nausea"]),
        (_TEXTS, ["pain\nat rest", "nausea"]),
        ({"type": ["string", "null"]}, None),
    ],
)
def test_a_value_that_nobody_changes_is_saved_as_it_was(
    browser: Browser, part: dict[str, Any], value: object
) -> None:
    page = browser.open("/reviews", Role.REVIEWER)
    schema = {"type": "object", "properties": {"finding": part}}
    assert page.evaluate(_SAVE, [schema, {"finding": value}]) == {"finding": value}
