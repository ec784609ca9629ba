"""JSON files that are one object with the rows inside: the official SQuAD form, or {"data": [rows], …}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def rows_inside(value: Any) -> list[Any] | None:
    """The rows of an object that holds them, as they are; of SQuAD's articles, a row for each question. None where it
    is no such object: a row has no list of objects alone beside plain values."""
    if not isinstance(value, dict):
        return None
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(one, dict) for one in v)]
    others = [v for v in value.values() if isinstance(v, str | list | dict) and v not in lists]
    if len(lists) != 1:
        return None
    if all(isinstance(article.get("paragraphs"), list) for article in lists[0]):
        return list(_questions(lists[0]))
    named = any(value.get(name) is lists[0] for name in NAMES)
    return lists[0] if named and not any(isinstance(other, list) for other in others) else None


NAMES = ("data", "rows", "examples", "instances", "items", "train", "validation", "test")
"""What files call the list of their rows."""


def _questions(articles: list[dict[str, Any]]) -> Iterator[Any]:
    """{"title", "context", and what a question has, its answers as two lists}; a part that is no object as it is."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                yield paragraph
                continue
            shared = {"title": article["title"]} if "title" in article else {}
            shared |= {"context": paragraph["context"]} if "context" in paragraph else {}
            for question in paragraph["qas"]:
                yield {**shared, **question} if isinstance(question, dict) else question
