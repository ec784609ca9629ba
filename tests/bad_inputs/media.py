"""Pictures and recordings: the file of the second row is at fault, or looks as if it were."""

from __future__ import annotations

import struct
import zlib

from tests.bad_inputs.case import Case, bad, good
from tests.bad_inputs.rows import changed, picture, tone

IMAGES, SPEECH = "image-captioning", "speech-recognition"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def seen(kind: str, name: str, data: bytes, *needles: str, file: str = "green.png") -> Case:
    """A picture in place of the second row's; no needles: it is well."""
    train = changed(IMAGES, image=file)
    if not needles:
        return good(kind, name, task=IMAGES, train=train, files={file: data})
    return bad(kind, name, "train.jsonl:2", "image", *needles, task=IMAGES, train=train, files={file: data})


def heard(kind: str, name: str, data: bytes, *needles: str, file: str = "1.wav", text: str = "one") -> Case:
    """A recording in place of the second row's; no needles: it is well."""
    train = changed(SPEECH, audio=file, text=text)
    if not needles:
        return good(kind, name, task=SPEECH, train=train, files={file: data})
    return bad(kind, name, "train.jsonl:2", *needles, task=SPEECH, train=train, files={file: data})


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes whose header promises many pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**5)))
        + chunk(b"IEND", b"")
    )


def wav(channels: int = 1, rate: int = 16_000, bits: int = 16, tag: int = 1, sound: bytes | None = None,
        size: int | None = None) -> bytes:  # fmt: skip
    """A WAV file whose header says what it is told."""
    sound = tone()[44:] if sound is None else sound
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    size = len(sound) if size is None else size
    return (
        b"RIFF"
        + struct.pack("<I", (36 + size) % 2**32)
        + b"WAVEfmt \x10\0\0\0"
        + fmt
        + b"data"
        + struct.pack("<I", size)
        + sound
    )


PNG, JPEG = picture(), picture(kind="JPEG", quality=95)
NAN = struct.pack("<f", float("nan")) * 4000

PICTURES = [
    bad("I1", "not there", "train.jsonl:2", "image", "no-such.png", "a file that can be read", task=IMAGES, train=changed(IMAGES, image="no-such.png")),
    bad("I1", "in a folder that is not there", "train.jsonl:2", "image", task=IMAGES, train=changed(IMAGES, image="pictures/green.png")),
    bad("I1", "nothing", "train.jsonl:2", "image", "nothing", task=IMAGES, train=changed(IMAGES, image=None)),
    seen("I2", "zero bytes", b"", "a file with content"),
    seen("I2", "one byte", b"x", "no picture"),
    seen("I3", "a JPEG cut in half", JPEG[: len(JPEG) // 2], "broken picture"),
    seen("I3", "a PNG without its end", PNG[: len(PNG) // 2], "broken picture"),
    seen("I3", "the first bytes of a PNG alone", PNG[:12], "picture"),
    seen("I3", "a PNG with a byte flipped", PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "broken picture"),
    seen("I4", "a web page", PAGE, "HTML", file="green.jpg"),
    seen("I4", "a git-lfs pointer", POINTER, "git lfs pull"),
    seen("I4", "a recording", tone(), "no picture"),
    seen("I4", "PostScript, which starts programs", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
    seen("I5", "40,000 × 40,000 pixels", bomb(40_000, 40_000), "at most 100,000,000 pixels"),
    seen("I5", "one line of 400,000,000 pixels", bomb(400_000_000, 1), "at most 100,000,000 pixels"),
    seen("I5", "no pixel at all", bomb(0, 40), "picture"),
    seen("I6", "numbers without a known white", picture(mode="F", kind="TIFF"), "without a known white"),
    seen("I6", "a palette without colours", PNG[:25] + b"\x03" + PNG[26:], "picture"),
    bad("I7", "an address", "train.jsonl:2", "image", task=IMAGES, train=changed(IMAGES, image="https://example.org/green.png")),
    bad("I7", "from the root", "train.jsonl:2", "below", task=IMAGES, train=changed(IMAGES, image="/tmp/green.png")),
    bad("I7", "an address of this machine", "train.jsonl:2", "image", task=IMAGES, train=changed(IMAGES, image="file:///etc/passwd")),
    seen("I1", "one picture twice", PNG, file="red.png"),
    seen("I1", "a name without an ending", PNG, file="green"),
    seen("I2", "one pixel", picture(size=(1, 1))),
    seen("I2", "a long thin picture", picture(size=(300, 2))),
    seen("I3", "a JPEG with bytes behind its end", JPEG + b"\0" * 100),
    seen("I3", "a progressive JPEG", picture(kind="JPEG", progressive=True)),
    seen("I4", "a JPEG that is called PNG", JPEG),
    seen("I4", "WebP", picture(kind="WEBP"), file="green.webp"),
    seen("I5", "a megapixel", picture(size=(1000, 1000))),
    seen("I5", "GIF", picture(mode="P", kind="GIF"), file="green.gif"),
    seen("I6", "CMYK", picture(mode="CMYK", kind="JPEG"), file="green.jpg"),
    seen("I6", "16 bits of grey", picture(mode="I;16")),
    seen("I6", "transparent", picture(mode="RGBA")),
    seen("I6", "black and white", picture(mode="1")),
    seen("I7", "a name like an address", PNG, file="https:/green.png"),
    seen("I7", "a name with a percent sign", PNG, file="..%2fgreen.png"),
]  # fmt: skip

RECORDINGS = [
    heard("S1", "cut", tone()[:-2000], "audio"),
    heard("S1", "more sound promised than there is", wav(size=10**6), "audio"),
    heard("S1", "no format", b"RIFF" + struct.pack("<I", 4) + b"WAVE", "audio"),
    heard("S1", "a format that no one knows", wav(tag=0x4242), "audio"),
    heard("S1", "a web page", PAGE, "HTML"),
    heard("S1", "a git-lfs pointer", POINTER, "git lfs pull"),
    heard("S1", "a picture", PNG, "no recording"),
    heard("S2", "a rate of 0", wav(rate=0), "audio"),
    heard("S2", "a rate of 4 GHz", wav(rate=2**32 - 1), "audio"),
    heard("S2", "a rate of 100", wav(rate=100), "audio"),
    heard("S3", "zero bytes", b"", "a file with content"),
    heard("S3", "no samples", wav(sound=b""), "audio"),
    heard("S3", "silence", wav(sound=bytes(16_000)), "audio"),
    heard("S3", "NaN", wav(bits=32, tag=3, sound=NAN), "NaN"),
    heard("S3", "infinity", wav(bits=32, tag=3, sound=struct.pack("<f", float("inf")) * 4000), "infinity"),
    heard("S3", "a thousandth of a second", tone(0.001), "audio"),
    heard("S4", "no channel", wav(channels=0), "audio"),
    heard("S4", "65,535 channels", wav(channels=65_535), "audio"),
    heard("S4", "a hundred channels", wav(channels=100), "audio"),
    heard("S5", "more letters than frames", tone(0.05), "text", text="one two three"),
    heard("S5", "a book for half a second", tone(), "frames", text="two two " * 200),
    heard("S6", "digits", tone(), "letters of the tokenizer", text="one 5"),
    heard("S6", "another script", tone(), "letters of the tokenizer", text="два"),
    bad("S6", "an empty transcript", "train.jsonl:2", "text", task=SPEECH, train=changed(SPEECH, text=" ")),
    heard("S1", "bytes behind the sound", tone() + b"LIST\x04\0\0\0INFO"),
    heard("S1", "a size that was not known yet", wav(size=2**32 - 1)),
    heard("S2", "8 kHz", tone(rate=8000)),
    heard("S2", "44.1 kHz", tone(rate=44_100)),
    heard("S3", "24 bits", wav(bits=24, sound=b"\0\0\x10\0\0\xf0" * 4000)),
    heard("S3", "floating point", wav(bits=32, tag=3, sound=struct.pack("<ff", 0.5, -0.5) * 4000)),
    heard("S4", "two channels", tone(channels=2)),
    heard("S4", "eight channels", tone(channels=8)),
    heard("S5", "a letter for a second", tone(1.0), text="o"),
    heard("S5", "letters that repeat", tone(1.0), text="noon"),
    heard("S6", "the other case", tone(), text="One"),
    heard("S6", "two blanks and a line's end", tone(), text="one  two\n"),
]  # fmt: skip

CASES = [*PICTURES, *RECORDINGS]
