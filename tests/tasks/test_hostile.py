"""Task files from a stranger: refused or harmless, quickly and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtask.errors import TaskFaults
from medtask.records import Fault, Record, Status
from medtask.tasks.input_template import read_template
from medtask.tasks.load import load_task
from medtask.tasks.prompt import render_text

ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.fixture(autouse=True)
def limit_time_and_memory() -> Iterator[None]:
    tracemalloc.start()
    begin = time.perf_counter()
    yield
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Tracing memory makes everything several times slower than it is.
    assert seconds < 5
    assert peak < 100_000_000


@pytest.mark.parametrize(
    ("text", "words", "name"),
    [
        (ALIAS_BOMB, "counting what aliases repeat", "task.yaml"),
        ("a: [" + "x," * 100_000 + "]", "values", "task.yaml"),
        ("[" * 100_000, "nested more than 20 deep", "task.yaml"),
        ("a: " + "{a: " * 5_000, "nested more than 20 deep", "task.yaml"),
        (
            "a:\n" + "".join(" " * depth + "-\n" for depth in range(1, 1000)),
            "nested more than 20 deep",
            "task.yaml",
        ),
        ('{"a":' * 100_000, "nested more than 20 deep", "task.json"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested more than 20 deep", "task.json"),
        (
            "".join(f"key{number}: 1\n" for number in range(10_000)),
            "and 9,950 more unknown keys",
            "task.yaml",
        ),
    ],
    ids=["aliases", "values", "lists", "mappings", "blocks", "json", "closed json", "keys"],
)
def test_a_file_that_would_exhaust_the_machine_is_refused(tmp_path, text, words, name):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskFaults, match=words):
        load_task(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!binary aGVsbG8=",
        "!!timestamp 2024-01-01",
        "!include {marker}",
    ],
)
def test_a_tag_is_a_fault_and_runs_nothing(tmp_path, value):
    marker = tmp_path / "marker"
    path = tmp_path / "task.yaml"
    path.write_text(f"instruction: x\nname: {value.format(marker=marker)}\n")
    with pytest.raises(TaskFaults, match="line   2  the YAML tag"):
        load_task(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ text.__init__.__globals__ }}",
        "{{ text['__class__'] }}",
        "{{ text|attr('__class__') }}",
        "{{ row.__class__ }}",
        "{{ self }}",
        "{{ self.__init__.__globals__.__builtins__ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace.__init__ }}",
        "{{ [text]|map(attribute='__class__')|list }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ '%s'|format(text) }}",
        "{{ text.encode() }}",
        "{{ row.update({'text': 'x'}) }}",
        "{{ row.clear() }}",
        "{{ text.strip(*[1]) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block x %}{% endblock %}",
        "{% macro x() %}{{ x() }}{% endmacro %}{{ x() }}",
        "{% set x = text ~ text %}{{ x ~ x }}",
        "{% with x = 1 %}{% endwith %}",
        "{% filter upper %}x{% endfilter %}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**10**10 }}",
        "{{ 'a' % 1 }}",
        "{{ text|center(10**9) }}",
        "{{ text|center(1000000000) }}",
        "{{ text|indent(1000000000) }}",
        "{{ 1.5|round(1000000000) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for x in text recursive %}{{ loop(text) }}{% endfor %}",
        "{% for row in text %}{% endfor %}",
        "{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}",
        "{{ " + "9" * 5_000 + " }}",
        "{{ a" + " + a" * 2_000 + " }}",
        "{{ a" + "|upper" * 200 + " }}",
        "{{ a" + ".b" * 200 + " }}",
        "{% if a %}" * 50 + "{% endif %}" * 50,
        "{% for a in text %}" * 30 + "{% endfor %}" * 30,
        "{{ text }}" * 1_001,
        "{{ text",
        "{% if %}",
    ],
)
def test_a_template_that_could_run_code_or_grow_is_refused_before_it_is_compiled(source):
    template = read_template(source)
    assert template.faults
    assert template.compiled is None


@pytest.mark.parametrize(
    "source",
    [
        (
            "{% for a in text %}{% for b in text %}{% for c in text %}{% endfor %}{% endfor %}{% "
            "endfor %}"
        ),
        "{% for a in text %}{{ text }}{% endfor %}",
        "{{ text" + "|replace('a', text)" * 4 + " }}",
        "{{ text" + "|join(text)" * 4 + " }}",
        "{% if a" + " ~ a" * 200 + " %}{% endif %}",
        "{% for a in text %}{% if text" + " + text" * 30 + " %}{% endif %}{% endfor %}",
        "{% if text" + "|replace('', text)" * 4 + " %}{% endif %}",
    ],
)
def test_a_template_that_grows_on_a_row_is_stopped_there(source):
    fault = render_text(source, Record("7", {"text": "a" * 3_000, "a": "a" * 30_000}))
    assert isinstance(fault, Fault)
    assert fault.status is Status.TOO_LONG


def test_a_column_that_begins_with_an_underscore_can_still_be_used():
    assert (
        render_text('{{ _note }} {{ row["_id"] }}', Record("7", {"_note": "a", "_id": "b"}))
        == "a b"
    )


def test_a_task_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "task.yaml")
    with pytest.raises(Exception, match=r"holds no task.yaml"):
        load_task(tmp_path)
