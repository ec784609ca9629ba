"""What was found in a model folder is kept, and looked for again as soon as a file of it is another one."""

from __future__ import annotations

import os

import pytest
from safetensors.torch import load_file, save_file

from keeltune.models import configuration, loading, remembered
from keeltune.utils.errors import UserError

HEAD = "AutoModelForSequenceClassification"


def test_the_same_question_is_looked_up_once_and_another_is_not(tmp_path):
    (tmp_path / "a").write_text("1")
    answers = iter(range(100))

    def ask(question: str) -> int:
        return remembered.once(str(tmp_path), (question,), lambda: next(answers))

    assert [ask("x"), ask("x"), ask("y"), ask("x")] == [0, 0, 1, 0]
    times = os.stat(tmp_path / "a")
    (tmp_path / "b").write_text("2")
    (tmp_path / "b").replace(tmp_path / "a")  # another file of the same name, size and time
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ask("x") == 2
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    assert ask("x") == 2
    for number in range(remembered.REMEMBERED):
        ask(f"other {number}")
    assert ask("x") > 2  # it is not kept for ever


def test_a_weight_that_is_gone_since_is_missed(tiny, tmp_path):
    stored = load_file(tiny("bert") / "model.safetensors")
    for file in tiny("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def check() -> list[str]:
        config = configuration.read_config(str(tmp_path), "r.yaml:3", "model")
        return loading.check_weights(str(tmp_path), config, HEAD, "r.yaml:3", "model")

    assert check() == check() == []
    del stored["bert.encoder.layer.0.output.dense.weight"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layer\.0\.output\.dense\.weight"):
        check()
