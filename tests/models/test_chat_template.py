"""Chat templates come from others: what they write is `transformers`' own, what they take is bounded."""

from __future__ import annotations

import time

import pytest

from keeltune.models import chat_template
from keeltune.models.chat_template import Rendered, Rendering, TemplateError, render
from tests.helpers.chats import KINDS, chat_tokenizer

TALK = [{"role": "user", "content": "is it good"}, {"role": "assistant", "content": "nöt göod 好"}]
ASK = [Rendering(TALK)]


@pytest.fixture(scope="module")
def impatient():
    """Another process, which has half a second."""
    with pytest.MonkeyPatch.context() as patched:
        renderer = chat_template.Renderer()
        patched.setattr(chat_template, "SECONDS", 0.5)
        patched.setattr(chat_template, "RENDERING", renderer)
        yield renderer
    renderer.close()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"in-parts"}))
def test_a_template_writes_what_transformers_writes(kind):
    words = chat_tokenizer(kind)
    for opened, messages in ((False, TALK), (True, TALK[:1])):
        (ours,) = render(words.chat_template, words.special_tokens_map, [Rendering(messages, opened=opened)])
        theirs = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
        assert isinstance(ours, Rendered)
        assert ours.text == theirs


BOMBS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops where a row asks for them": "{% if messages | length > 1 %}{% for a in range(99999) %}"
                                       "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}",
    "a long text at once": "{{ 'x' * 10 ** 10 }}",
    "a long list": "{{ [0] * 10 ** 9 }}",
    "doubling": "{% set n = namespace(x='x') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a long text bit by bit": "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    "padding": "{{ '%1000000000s' | format('x') }}",
    "joins": "{{ range(99999) | join('x' * 10 ** 6) }}",
    "replacing": "{{ ('x' * 10 ** 6) | replace('x', 'y' * 10 ** 6) }}",
    "a text just too long": "{{ 'x'.ljust(3 * 10 ** 7) }}",
    "a macro in itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a number of many digits": "{{ 7 ** (8 ** 9) % 10 }}",
    "brackets": "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_is_stopped_within_its_bounds_and_not_asked_again(impatient, bomb):
    render("{{ messages[0].content }}", {}, ASK)  # the process is there
    begin = time.monotonic()
    with pytest.raises(TemplateError) as refused:
        render(BOMBS[bomb], {}, ASK)
    assert refused.value.bound
    assert time.monotonic() - begin < 20  # on a busy machine; alone it is a second
    begin = time.monotonic()
    with pytest.raises(TemplateError):
        render(BOMBS[bomb], {}, ASK)
    assert time.monotonic() - begin < 1  # on a busy machine; alone it is no time at all
    (after,) = render("{{ messages[0].content }}", {}, ASK)
    assert isinstance(after, Rendered)
    assert after.text == "is it good"


def test_many_slow_renderings_have_a_bound_together(impatient):
    """A tenth of a second each: none is too long, and twenty of them are."""
    slow = "{% for a in range(1000) %}{% for b in range(4000) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateError):
        render(slow, {}, ASK * 20)


def test_no_template_pays_for_another(impatient):
    """Four that take more than they may in all: each has its own half second, the last one what the first had."""
    heavy = "{% for a in range(1000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"
    for number in range(4):
        render(heavy + "{# " + str(number) + " #}", {}, ASK)


def test_an_interrupted_rendering_leaves_no_answer_for_the_next(impatient, monkeypatch):
    """As by Ctrl-C in a notebook: the next template would get this one's text."""
    render("{{ 1 }}", {}, ASK)
    reading = impatient.process.stdout

    class Interrupted:
        def readline(self):
            raise KeyboardInterrupt

        def close(self):
            reading.close()

    impatient.process.stdout = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        render("{{ 'stale' }}", {}, ASK)
    (after,) = render("{{ 'fresh' }}", {}, ASK)
    assert isinstance(after, Rendered)
    assert after.text == "fresh"


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ ('%s' | format).__self__ }}",
    "{{ messages.append(messages[0]) }}",
    "{{ ''['__cl' + 'ass__'] }}{{ messages | attr('__class__') | attr('__mro__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{{ range(10 ** 9) | list }}",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_does_not_leave_its_sandbox(escape):
    (refused,) = render(escape, {}, ASK)
    text = str(refused) if isinstance(refused, TemplateError) else refused.text
    assert isinstance(refused, TemplateError) or not text.strip() or text == "[]"
    assert not any(word in text for word in ("<class", "uid=", "root:", "/bin"))


def test_the_renderer_has_no_secret_of_this_process(monkeypatch):
    """Its environment holds what it needs to run, whatever ours holds."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    renderer = chat_template.Renderer()
    try:
        renderer.ask("{{ 1 }}", [{"messages": []}])
        with open(f"/proc/{renderer.process.pid}/environ", "rb") as stream:
            assert b"hf_secret" not in stream.read()
    finally:
        renderer.close()
