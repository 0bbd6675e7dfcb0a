"""The task files in the README can be loaded as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtask.tasks.load import load_task
from support.example_files import EXAMPLE_NAMES, EXAMPLES

README = (EXAMPLES.parent / "README.md").read_text("utf-8")
BLOCK = README[README.index("The `answer:` section") : README.index("Every kind also accepts")]
ANSWERS = {
    found[2]: found[1]
    for found in re.finditer(
        r"^    (answer: \{kind: (\w+),.*?)(?=\n\n|\Z)", BLOCK, re.MULTILINE | re.DOTALL
    )
}


def test_every_kind_and_every_example_is_in_the_readme() -> None:
    assert list(ANSWERS) == ["label", "labels", "choice", "answer", "fields"]
    assert not [name for name in EXAMPLE_NAMES if f"(examples/{name})" not in README]


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_block_of_a_kind_is_what_a_task_file_can_hold(kind: str, tmp_path: Path) -> None:
    answer = re.sub(r"\s+#.*", "", ANSWERS[kind])
    held_out = (
        "{properties: {size: {type: number}}}"
        if kind == "fields"
        else "{tumour: a growth, cyst: filled with fluid}"
    )
    answer = answer.replace("{...}", held_out)
    (tmp_path / "task.yaml").write_text(
        f'instruction: Look.\ninput: "{{{{ text }}}}"\n{answer}\n', "utf-8"
    )
    assert load_task(tmp_path).kind == kind
