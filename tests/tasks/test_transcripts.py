"""Which words of a long transcript are of which part of its recording."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from keeltune.data.audio_parts import joined_segments, quiet_spans
from keeltune.tasks.common.transcripts import share_out

TEXT = "The quick brown fox, jumps over the lazy dog. And then it sleeps! All day long — well."


@pytest.mark.parametrize(
    ("heard", "texts"),
    [
        (["the quick brown fox jumps", "over the hazy dog and then", "it sleeps all day long well"],
         ["The quick brown fox, jumps", "over the lazy dog. And then", "it sleeps! All day long — well."]),
        (["the quick brown socks jumps over", "lazy dog and then it", "sleep or day long well"],
         ["The quick brown fox, jumps over", "the lazy dog. And then it", "sleeps! All day long — well."]),
        (["something else entirely here now what", "over the lazy dog and then it sleeps all", "day long well"],
         [None, "over the lazy dog. And then it sleeps! All", "day long — well."]),
        (["", "the quick brown fox jumps over the lazy dog and then it sleeps", "all day long well"],
         [None, "The quick brown fox, jumps over the lazy dog. And then it sleeps!", "All day long — well."]),
        (["", "", ""], [None, None, None]),
    ],
)  # fmt: skip
def test_words_go_where_they_are_heard(heard, texts):
    assert share_out(TEXT, heard) == texts


def test_scripts_without_spaces_are_cut_between_characters():
    heard = ["我认为跑步最", "重要的就是给我", "带来身体健康"]
    assert share_out("我认为跑步最重要的就是给我带来了身体健康", heard) == [
        "我认为跑步最", "重要的就是给我", "带来了身体健康",
    ]  # fmt: skip


def test_each_word_of_the_text_is_in_one_part():
    words = [f"w{i}" for i in range(200)]
    random = np.random.default_rng(0)
    for _ in range(20):
        borders = [0, *sorted(random.choice(np.arange(1, 200), 4, replace=False)), 200]
        heard = [" ".join(words[a:b]) for a, b in pairwise(borders)]
        noisy = [" ".join("x" if random.random() < 0.1 else w for w in part.split()) for part in heard]
        assert share_out(" ".join(words), heard) == heard
        found = share_out(" ".join(words), noisy)
        assert " ".join(t for t in found if t is not None).split() == words or None in found


def test_spans_are_whole_no_longer_than_they_may_be_and_end_in_pauses():
    wave = np.random.default_rng(0).standard_normal(70_000).astype(np.float32)
    for pause in (20_000, 29_000, 50_000, 58_000):
        wave[pause : pause + 500] *= 0.01
    found = quiet_spans(wave, 1000, 30_000)
    assert [b for _, b in found] == pytest.approx([20_250, 50_250, 70_000], abs=150)
    random = np.random.default_rng(1)
    for _ in range(200):
        count, most = int(random.integers(1, 5000)), int(random.integers(1, 900))
        found = quiet_spans(random.standard_normal(count).astype(np.float32), int(random.integers(20, 2000)), most)
        assert found[0][0] == 0 and found[-1][1] == count
        assert all(0 < b - a <= most for a, b in found)
        assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]


def test_a_part_without_any_sound_is_left_out():
    wave = np.concatenate([np.ones(100), np.zeros(400), np.ones(100)]).astype(np.float32)
    spans = quiet_spans(wave, 50, 100)
    assert all(wave[a:b].any() for a, b in spans)
    assert sum(wave[a:b].sum() for a, b in spans) == 200


def test_segments_are_joined_while_they_fit():
    segments = [{"start": s, "end": s + 2, "text": f" {s}"} for s in (0, 2, 4, 10)]
    assert list(joined_segments(segments, 6)) == [(0, 6, "0 2 4"), (10, 12, "10")]
    assert list(joined_segments(segments, 1)) == [(s, s + 2, str(s)) for s in (0, 2, 4, 10)]
