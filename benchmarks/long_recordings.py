"""Recordings longer than Whisper hears at once: our parts, cut in pauses, beside what transformers has for them.

    python benchmarks/long_recordings.py MODEL DATA.jsonl OUT [--recordings 5] [--clips 7] [--pauses 0.5 0.0]

Joins clips of DATA (columns audio, text) to long recordings with pauses of so many seconds between them, and prints the
WER, as this package scores it, and the seconds of: parts cut where it is quietest (what `keeltune predict` does);
`generate` with timestamps, which moves its window on to the last time that it wrote (long form); the pipeline of
`transformers`, whose windows of 30 s overlap by 5 s on each side; and windows of 30 s cut wherever they end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers

from keeltune.data import audio
from keeltune.runs.inference import predict
from keeltune.runs.opened_model import open_model
from keeltune.utils.progress import Display

RATE = 16_000
TASK = "speech-recognition"


def joined(data: Path, recordings: int, clips: int, pause: float) -> list[tuple[np.ndarray, str]]:
    """Long recordings of clips that follow each other in DATA, with their texts."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[: recordings * clips]]
    silence = np.zeros(round(pause * RATE), np.float32)
    found = []
    for start in range(0, len(rows), clips):
        part = rows[start : start + clips]
        waves = [audio.read(data.parent / row["audio"]).at(RATE) for row in part]
        pieces = [piece for wave in waves for piece in (wave, silence)][:-1]
        found.append((np.concatenate(pieces), " ".join(row["text"] for row in part)))
    return found


def ways(folder: str, out: Path, waves: Sequence[np.ndarray]) -> dict[str, Callable[[], list[str]]]:
    """Each way to write long recordings, by its name."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32).eval()

    def ours() -> list[str]:
        lines = []
        for number, wave in enumerate(waves):
            soundfile.write(out / f"{number}.wav", wave, RATE, subtype="FLOAT")
            lines.append(json.dumps({"audio": f"{number}.wav"}) + "\n")
        (out / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        return [
            row["prediction"] for row in predict(folder, out / "rows.jsonl", task=TASK, display=Display(quiet=True))
        ]

    def long_form() -> list[str]:
        options = {"truncation": False, "padding": "longest", "return_attention_mask": True, "return_tensors": "pt"}
        texts = []
        for wave in waves:
            inputs = processor.feature_extractor(wave, sampling_rate=RATE, **options)
            with torch.inference_mode():
                ids = model.generate(**inputs, return_timestamps=True)
            texts.append(processor.tokenizer.decode(ids[0], skip_special_tokens=True))
        return texts

    def overlapping() -> list[str]:
        parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
        pipe = transformers.pipeline("automatic-speech-recognition", model, chunk_length_s=30, **parts)
        return [pipe({"raw": wave, "sampling_rate": RATE})["text"] for wave in waves]

    def anywhere() -> list[str]:
        texts = []
        for wave in waves:
            windows = [wave[start : start + 30 * RATE] for start in range(0, len(wave), 30 * RATE)]
            inputs = processor.feature_extractor(windows, sampling_rate=RATE, return_tensors="pt")
            with torch.inference_mode():
                ids = model.generate(**inputs)
            texts.append(" ".join(processor.tokenizer.batch_decode(ids, skip_special_tokens=True)))
        return texts

    return {"parts cut in pauses": ours, "long form": long_form, "overlapping windows": overlapping,
            "windows cut anywhere": anywhere}  # fmt: skip


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=int, default=5)
    parser.add_argument("--clips", type=int, default=7)
    parser.add_argument("--pauses", type=float, nargs="+", default=[0.5])
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    task = open_model(options.model, TASK).task
    for pause in options.pauses:
        recordings = joined(options.data, options.recordings, options.clips, pause)
        waves, texts = [wave for wave, _ in recordings], [text for _, text in recordings]
        lengths = [len(wave) / RATE for wave in waves]
        print(
            f"pauses of {pause:g} s: {len(waves)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s", flush=True
        )
        for name, write in ways(options.model, options.out, waves).items():
            start = time.process_time()
            found = write()
            errors, words = task.statistics(found, texts).sum(0)[:2]
            print(f"  {name}: WER {errors / words:.4f} ({errors:.0f} of {words:.0f} words), "
                  f"{time.process_time() - start:.0f} CPU-seconds", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
