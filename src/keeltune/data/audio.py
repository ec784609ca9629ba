"""Recordings from files: checked against their own header, decoded whole, one channel of float32 in −1..1.

WAV, FLAC, OGG, MP3 and their like by libsndfile, of any coding (24 bits, floating point, µ-law, A-law, GSM). Several
channels are averaged; another rate is resampled by a polyphase filter.
libsndfile reads a cut file up to where it ends and says nothing, so that what the headers promise is counted here.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.data.media import Media, Unreadable, check_magic_bytes, content_of
from keeltune.utils.errors import Problem, UserError

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "NIST", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")

SECONDS = 2 * 3600
"""Length of a recording, by its header, above which it is not decoded: 460 MB in memory at 16 kHz."""

RATES = (1_000, 768_000)
"""Sampling rates in Hz that a header may say."""

CHANNELS = 64

SAMPLES = SECONDS * 48_000 * 2
"""Numbers of all channels, by the header, above which a recording is not decoded: 2.8 GB in memory, from a file of any
size."""

UNKNOWN = 0x7FFF0000
"""From this size on (and at 0) a program wrote it which did not know it yet, into a pipe; the sound then ends where the
file does. ffmpeg writes 0xFFFFFFFF, sox 0x7FFFF000 and more, others 0."""


@dataclass(frozen=True)
class Recording:
    """`wave` [samples] float32, `rate` in Hz, and how many `channels` it is the average of."""

    wave: np.ndarray
    rate: int
    channels: int

    def at(self, rate: int) -> np.ndarray:
        """The wave at another rate, [⌈samples · rate / own⌉] float32; a polyphase filter keeps what is below both."""
        if rate == self.rate:
            return self.wave
        from scipy.signal import resample_poly

        shared = math.gcd(rate, self.rate)
        return np.asarray(resample_poly(self.wave, rate // shared, self.rate // shared), dtype=np.float32)


def library() -> Any:
    """The module `soundfile`; UserError where it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there and libsndfile is not
        fix = "pip install 'keeltune[speech]'"
        raise UserError(Problem("this machine", "", "no soundfile", "the library that reads sound", fix)) from error
    return soundfile


def read(source: Media | Path) -> Recording:
    """A recording, decoded whole. Raises `Unreadable`."""
    soundfile = library()
    content = _sized(content_of(source))
    whole = "a whole recording (WAV, FLAC, OGG, MP3)"
    check_magic_bytes(content[:64], "recording", whole)
    try:
        with soundfile.SoundFile(_Seekable(content)) as file:
            kind, rate, channels, promised = file.format, file.samplerate, file.channels, file.frames
            _sound_header(kind, rate, channels, promised)
            _check_length(kind, content)
            frames = -1 if file.seekable() else promised  # GSM cannot be sought in, and is read to its end
            table = file.read(frames, dtype="float32", always_2d=True)
    except Unreadable:
        raise
    except Exception as error:  # each decoder fails in its own words, and each of them means: the file is broken
        reason = str(getattr(error, "error_string", error)).strip().splitlines() or [type(error).__name__]
        found = f"a broken recording ({reason[0][:100]})"
        if "not recognised" in reason[0] or "unknown format" in reason[0].lower():
            found = f"no recording: it begins with {content[:12]!r}"
        raise Unreadable("broken recording", found, whole, "copy or download it again") from error
    if kind != "MP3" and len(table) < promised:
        raise _truncated(f"{len(table)} samples where the header says {promised}")
    if not len(table):
        raise Unreadable("empty recording", "0 samples", "sound", "record it again, or delete the row")
    if not np.isfinite(table).all():
        index = int(np.flatnonzero(~np.isfinite(table).all(1))[0])
        fix = "write the file again; in floating point a division by 0 does this"
        raise Unreadable("not a number", f"NaN or infinity from sample {index} on", "finite samples", fix)
    wave = table.mean(1, dtype=np.float32) if channels > 1 else table[:, 0]
    if not wave.any():
        found = f"silence: each of {len(wave)} samples is 0" + ("" if channels == 1 else " as the channels' average")
        raise Unreadable("silence", found, "sound", "record it again, or delete the row")
    return Recording(np.ascontiguousarray(wave), int(rate), int(channels))


class _Seekable(io.BytesIO):
    """Bytes in which a header that lies cannot seek before the beginning: that would print a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell()}.get(whence, self.getbuffer().nbytes)
        return super().seek(max(0, base + offset))


def _sized(content: bytes) -> bytes:
    """A WAV that was written into a pipe, whose header has no size yet, with the size that it has."""
    at = _data_chunk(content)
    if at is None:
        return content
    size, available = int.from_bytes(content[at + 4 : at + 8], "little"), len(content) - at - 8
    if not available or (size and size < UNKNOWN):
        return content
    whole, sound = (min(count, 2**32 - 2).to_bytes(4, "little") for count in (len(content) - 8, available))
    return content[:4] + whole + content[8 : at + 4] + sound + content[at + 8 :]


def _data_chunk(content: bytes) -> int | None:
    """Where the sound of a WAV begins: its chunk's name, size and samples. None where there is none."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(content):
        if content[at : at + 4] == b"data":
            return at
        at += 8 + (size := int.from_bytes(content[at + 4 : at + 8], "little")) + size % 2
    return None


def _sound_header(kind: str, rate: int, channels: int, samples: int) -> None:
    if kind not in FORMATS:
        fix = "save it as WAV or FLAC: ffmpeg -i FILE FILE.flac"
        raise Unreadable("other format", f"a recording of format {kind}", f"one of {', '.join(FORMATS)}", fix)
    if not RATES[0] <= rate <= RATES[1] or channels > CHANNELS:
        found = f"a header that says {rate} Hz and {channels} channels"
        expected = f"{RATES[0]} to {RATES[1]} Hz and at most {CHANNELS} channels"
        raise Unreadable("header lies", found, expected, "copy it again, or correct the header")
    if samples > rate * SECONDS:
        found, expected = f"{samples / rate:.0f} s of sound", f"at most {SECONDS} s"
        raise Unreadable("recording too long", found, expected, "cut it where its text can be cut too")
    if samples * channels > SAMPLES:
        found = f"{samples * channels} samples of {channels} channels at {rate} Hz"
        fix = "save one channel at a lower rate: ffmpeg -i FILE -ac 1 -ar 16000 FILE.flac"
        raise Unreadable("recording too large", found, f"at most {SAMPLES}", fix)


def _check_length(kind: str, content: bytes) -> None:
    """Raises where a container promises more than the file holds. FLAC says its samples, which are counted later."""
    if kind in ("WAV", "WAVEX") and content[:4] == b"RIFF":
        offset, block = 12, 1
        while offset + 8 <= len(content):
            name, size = content[offset : offset + 4], int.from_bytes(content[offset + 4 : offset + 8], "little")
            available = len(content) - offset - 8
            if name == b"fmt " and size >= 16 and available >= 16:
                code, channels, _, _, block, bits = _fields(content[offset + 8 : offset + 24])
                if code in (1, 3) and block != channels * -(-bits // 8):
                    found = f"a header that says {block} bytes for {channels} samples of {bits} bits"
                    raise Unreadable("header lies", found, "bytes that are these samples", "write the file again")
            if name == b"data":
                if size > available:
                    raise _truncated(f"{available} bytes of sound where the header says {size}")
                if size < block <= available:
                    found = f"a header that says {size} bytes of sound before {available} more"
                    raise Unreadable("header lies", found, "the size of the sound", "write the file again")
                return
            offset += 8 + size + size % 2
    elif kind == "OGG":
        offset = content.rfind(b"OggS")
        parts = content[offset + 26] if offset + 26 < len(content) else 0
        ends = offset + 27 + parts + sum(content[offset + 27 : offset + 27 + parts])
        if ends > len(content) or not content[offset + 5] & 4:
            raise _truncated("an Ogg stream without its last page")


def _fields(data: bytes) -> tuple[int, int, int, int, int, int]:
    """Format, channels, rate, bytes a second, bytes a sample of all channels, bits: the first of a `fmt ` chunk."""
    widths, numbers, offset = (2, 2, 4, 4, 2, 2), [], 0
    for width in widths:
        numbers.append(int.from_bytes(data[offset : offset + width], "little"))
        offset += width
    return tuple(numbers)  # type: ignore[return-value]


def _truncated(found: str) -> Unreadable:
    return Unreadable("cut recording", found, "a whole recording", "copy or download it again")
