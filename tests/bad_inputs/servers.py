"""Servers of teachers that do what they should not; `keeltune cache` asks them, ahead of any training."""

from __future__ import annotations

from tests.bad_inputs.case import Case, bad, good

TASK = "text-generation"


def asking(name: str = "teacher", url: str = "URL", k: int = 3, **more: str) -> tuple[str, ...]:
    fields = {"model": name, "from": "served", "url": url, "k": str(k), "form": "top-k", **more}
    return (
        "method=distillation",
        "reference={" + ", ".join(f"{n}: '{v}'" if n != "k" else f"k: {v}" for n, v in fields.items()) + "}",
    )


def server(kind: str, name: str, fault: str, *needles: str, status: int = 2, **more: object) -> Case:
    return bad(kind, name, *needles, task=TASK, verb="cache", server=fault, status=status, overrides=asking(), **more)  # type: ignore[arg-type]


def fine(kind: str, name: str, fault: str = "ok", **more: object) -> Case:
    return good(kind, name, task=TASK, verb="cache", server=fault, overrides=asking(**more))  # type: ignore[arg-type]


CASES = [
    bad("E1", "no one listens", "Connection refused", task=TASK, verb="cache", status=75, overrides=asking(url="http://127.0.0.1:9")),
    bad("E1", "no address", "reference", "http://host:port", task=TASK, verb="cache", overrides=asking(url="127.0.0.1:8000")),
    server("E2", "silent", "silent", "gave no answer", status=75),
    server("E2", "a drop at a time", "drip", "gave no answer", status=75),
    server("E3", "401", "unauthorized", "status 401"),
    server("E3", "403", "forbidden", "status 403"),
    server("E4", "for a day", "long-busy", "asks to wait 86400 s", status=75),
    server("E4", "500 at every try", "broken", "gave no answer", status=75),
    server("E5", "a web page", "html", "<!doctype html>"),
    server("E5", "half an object", "garbled", "a JSON object"),
    server("E5", "200,000 brackets", "deep", "a JSON object"),
    server("E5", "no choices", "empty", "no list of choices"),
    server("E6", "another model", "echoing", 'did you mean "tercher"', "(the key)"),
    bad("E6", "a name that is nearly its own", 'did you mean "teacher"', task=TASK, verb="cache", server="ok", overrides=asking("techer")),
    bad("E6", "more tokens than it grants", "greater than max allowed", task=TASK, verb="cache", server="ok", overrides=asking(k=25)),
    server("E7", "above 0", "positive", "≤ 0"),
    server("E7", "NaN", "nan", "nan"),
    server("E7", "out of order", "unranked", "rising ranks"),
    server("E7", "a sum above 1", "heavy", "probabilities of"),
    server("E7", "a position too few", "short", "positions for"),
    server("E8", "cut at every try", "cut", "gave no answer", status=75),
    server("E8", "a chunk cut at every try", "cut-chunk", "gave no answer", status=75),
    server("E9", "to another machine", "moved", "redirect"),
    bad("E9", "another machine", "another machine", task=TASK, verb="cache", overrides=asking(url="http://8.8.8.8:80")),
    bad("E9", "the machine's own data", "169.254.169.254", task=TASK, verb="cache", overrides=asking(url="http://169.254.169.254")),
    server("E10", "a header without end", "header", "bytes of header"),
    server("E10", "a body of 2 GB", "promised", "2147483648 bytes announced"),
    server("E11", "other answers from the fourth request on", "replaced", "answers the probe", status=3),
    server("E11", "another answer to the text that it was asked", "other", "not the one that stands there"),
    fine("E1", "it answers"),
    fine("E1", "its address as other clients write it", url="URL/"),
    fine("E2", "it answers in order"),
    fine("E2", "the likeliest tokens alone", "lean"),
    fine("E3", "it needs no key"),
    fine("E3", "its host allowed by name", allow_host="127.0.0.1"),
    fine("E4", "busy at first", "busy"),
    fine("E4", "busy at first, and says how long", "patient"),
    fine("E5", "its address with the version", url="URL/v1"),
    fine("E5", "more in the answer than was asked for", "wavering"),
    fine("E6", "one token a position", k=1),
    fine("E6", "as many as it grants", k=20),
    fine("E7", "two tokens a position", k=2),
    fine("E7", "five", k=5),
    fine("E8", "cut at first", "flaky"),
    fine("E8", "whole", k=4),
    fine("E9", "this machine by its number"),
    fine("E9", "a path before its own", url="URL"),
    fine("E10", "an answer of some kilobytes", k=8),
    fine("E10", "an answer of more", k=16),
    fine("E11", "one answer that wavers", "wavering"),
    fine("E11", "the same teacher all along", k=6),
]  # fmt: skip
