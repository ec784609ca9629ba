"""Renders chat templates in a process of its own, within bounds that the operating system holds.

A template comes with a model folder, from somebody else. Jinja's sandbox keeps it from Python's insides, but not from
loops in loops or from `'x' * 10 ** 10`; what it may take of time and memory is bounded here, where nothing else runs.

    one JSON line in    {"template": str, "renders": [arguments of transformers' render_jinja_template]}
    one JSON line out   [{"text": str, "spans": [[begin, end]]} | {"error": kind, "message": str}]

`chat_template.py` starts it, as a script: it imports nothing of keeltune, and of transformers the renderer alone, which
is the one that `apply_chat_template` calls. It ends when its input does.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import suppress
from typing import Any

MEMORY = 1 << 30
"""Bytes of address space, of which the interpreter and the renderer take a fifth."""

LETTERS = 1 << 24
"""The longest text that a template may write."""

EARNED = 0.05
"""What each rendering adds to the processor time that is left: n renderings take at most `seconds` + n · EARNED."""


def main() -> None:
    """Answers requests until the input ends. Arguments: folders of packages, as JSON; seconds of processor time."""
    sys.path[:0], seconds = json.loads(sys.argv[1]), float(sys.argv[2])
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    left: dict[str, float] = {}  # of each template, so that none pays for another
    for line in sys.stdin.buffer:
        request = json.loads(line)
        template, answers = request["template"], []
        for arguments in request["renders"]:
            before = time.process_time()
            _limit_time(left.get(template, seconds))
            answers.append(_rendered(render_jinja_template, template, arguments))
            rest = left.get(template, seconds) - (time.process_time() - before) + EARNED
            left[template] = min(seconds, rest)
        _limit_time(0)
        sys.stdout.buffer.write(json.dumps(answers).encode() + b"\n")
        sys.stdout.buffer.flush()


def _rendered(render: Any, template: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One rendering, or why there is none."""
    messages = arguments.pop("messages")
    try:
        texts, spans = render([messages], chat_template=template, **arguments)
    except MemoryError:
        return {"error": "memory", "message": f"more than {MEMORY >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "depth", "message": "calls in calls without end"}
    except Exception as error:  # the template's own refusal, or any fault of it
        return {"error": type(error).__name__, "message": str(error)[:500]}
    if len(texts[0]) > LETTERS:
        return {"error": "length", "message": f"a text of more than {LETTERS} letters"}
    return {"text": texts[0], "spans": spans[0] if spans else []}


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows, which has no such limits
        return
    with suppress(OSError, ValueError):  # macOS knows the limit and takes none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_time(seconds: float) -> None:
    """Ends this process after so much more processor time, also within a call of C; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, max(seconds, 0.001) if seconds else 0)


if __name__ == "__main__":
    main()
