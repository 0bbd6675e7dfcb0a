from __future__ import annotations

import time

import jinja2
import pytest

from medtask.engines.tokens.chat_template import render_chat_template
from medtask.errors import InputError
from support.tiny_models import TEMPLATES

CHAT = {
    "messages": [
        {"role": "user", "content": " What is it? "},
        {"role": "assistant", "content": "A knee."},
        {"role": "user", "content": "Sure?"},
    ],
    "add_generation_prompt": True,
    "bos_token": "<bos>",
    "eos_token": "</s>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_read_as_transformers_reads_them(name: str) -> None:
    compiled = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed"
    )
    messages = CHAT["messages"]
    more = {key: value for key, value in CHAT.items() if key != "messages"}
    (expected,), _ = compiled.render_jinja_template(
        [messages], chat_template=TEMPLATES[name], **more
    )
    assert render_chat_template(TEMPLATES[name], CHAT) == expected


def test_what_templates_may_call_is_there() -> None:
    loop = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m | tojson "
        "}}{% break %}{% endfor %}"
    )
    source = loop + "{{ strftime_now('%Y') }}"
    text = render_chat_template(source, CHAT)
    assert text.startswith('{"role": "assistant", "content": "A knee."}20')


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__['os'].system('id') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).__mro__ }}",
        "{{ ''['__class__']['__mro__'][1]() }}",
        "{% set x = messages.append(1) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ ('a' * 100000) * 100000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        (
            "{% for i in range(100000) %}{% for j in range(1000) %}{{ 'a' * 1000 }}{% endfor %}{% "
            "endfor %}"
        ),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ raise_exception('no') }}",
        "{% if",
        "{{ x | no_such_filter }}",
        "a" * 300_000,
    ],
)
def test_hostile_templates_get_nowhere(source: str) -> None:
    start = time.process_time()
    with pytest.raises((jinja2.TemplateError, InputError, TypeError)):
        render_chat_template(source, CHAT)
    assert time.process_time() - start < 10
