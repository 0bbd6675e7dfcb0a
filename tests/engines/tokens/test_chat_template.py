from __future__ import annotations

import time

import jinja2
import pytest

from medtask.engines.tokens import template_meter
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


def grow(start: str, step: str) -> str:
    """A template that changes ``ns.x`` sixty times."""
    begin = "{% set ns = namespace(x=" + start + ") %}{% for i in range(60) %}"
    return begin + step + "{% endfor %}{{ ns.x }}"


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
        "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        grow("'ab'", "{% set ns.x = ns.x ~ ns.x %}"),
        grow("'ab'", "{% set ns.x = ns.x + ns.x %}"),
        grow("[1]", "{% set ns.x = ns.x + ns.x %}"),
        grow("[1]", "{% set ns.x = [ns.x, ns.x] %}"),
        grow("'a'", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}"),
        grow("'a'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        "{% set x %}{% for i in range(100000) %}" + "a" * 100_000 + "{% endfor %}{% endset %}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ ('a' * 50000).replace('a', 'b' * 50000) }}",
        "{{ ('a' * 50000) | replace('a', 'b' * 50000) }}",
        "{{ ('a' * 50000).join(range(50000) | map('string')) }}",
        "{{ range(50000) | join('a' * 50000) }}",
        "{{ ('\n' * 50000) | indent('a' * 50000) }}",
        "{{ ('\t' * 50000).expandtabs(50000) }}",
        "{{ 1 | round(1000000000, 'ceil') }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{% for i in range(100000) %}{% set x = range(100000) | sum %}{% endfor %}",
        "{% for i in range(9999) %}{% set x = range(99999) | map('string') | list %}{% endfor %}",
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% set x = 'a' * 100000 %}{% for i in range(100000) %}"
        + "{% set y = ('b' in x ~ x) %}" * 200
        + "{% endfor %}",
        "{% set x = 'a' * 100000 %}{% for i in range(100000) %}"
        + "{% set y = x[1:] %}" * 1000
        + "{% endfor %}",
        "{% if",
        "{{ x | no_such_filter }}",
        "a" * 300_000,
    ],
)
def test_hostile_templates_get_nowhere(source: str) -> None:
    start = time.process_time()
    with pytest.raises((jinja2.TemplateError, InputError, TypeError)):
        render_chat_template(source, CHAT)
    assert time.process_time() - start < 20


def test_a_template_may_not_use_more_time_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_meter, "MAX_CPU_SECONDS", 0.1)
    monkeypatch.setattr(template_meter, "MAX_STEPS", 10**12)
    source = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    start = time.process_time()
    with pytest.raises(jinja2.TemplateError, match="too long"):
        render_chat_template(source, CHAT)
    assert time.process_time() - start < 5


def test_a_long_chat_is_rendered_whole() -> None:
    record = "a line of a report\n" * 250_000
    chat = {**CHAT, "messages": [{"role": "user", "content": record}]}
    source = (
        "{% for m in messages %}{% set text = '<' + m.role + '>' ~ (m.content | trim) + '</s>' %}"
        "{{ bos_token + text }}{% endfor %}"
    )
    assert render_chat_template(source, chat) == f"<bos><user>{record.strip()}</s>"


def test_what_python_raises_does_not_quote_the_chat() -> None:
    with pytest.raises(jinja2.TemplateError, match=r"fails \(TypeError\)"):
        render_chat_template("{{ messages[0].content + 1 }}", CHAT)


def test_generation_tags_are_rendered_as_their_body() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.role }};{% endgeneration %}{% endfor %}"
    assert render_chat_template(source, CHAT) == "user;assistant;user;"
