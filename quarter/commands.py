"""The commands that train and analyse a run, and the tiny runs of a rehearsal."""

import sys
from pathlib import Path

from figures.models import SECTION_2, Row, arguments

_TINY = ("--arch", "lenet", "--limit", "120", "--holdout", "20", "--batch-size", "50", "--epochs", "1",
         "--precision", "fp32")  # fmt: skip
_TINIER = ("--limit", "60", "--batch-size", "20", "--steps", "1", "--step-size", "8/255")
CUT = Row("glyphs-lenet", "alp", ("demo", "alp"), (*_TINY, "--epochs", "100000", "--save-every", "1000"))
"""It has more epochs than a rehearsal has time for, so it is stopped and continued."""
REHEARSAL = [
    Row("glyphs-resnet9", "pgd-at", ("demo", "pgd-at"), (*_TINY, *_TINIER, "--arch", "resnet9")),
    CUT,
    Row("glyphs-resnet32", "again", ("demo", "again"), (*_TINY, *_TINIER, "--arch", "resnet32")),
]
"""The runs of a rehearsal, which take seconds, in place of the papers' models."""


def training(
    row: Row, *, device: str, runs: Path = Path("runs"), until: float | None = None, engine: str | None = None
) -> list[str]:
    """The command that trains a row.

    until: Unix time by which it has to end, None for no limit; with a limit a large network writes its state only when
    it is stopped. engine: how the attack runs on a GPU, None for the default.
    """
    options = ["--out", str(runs / row.key), "--device", device]
    if until is not None:
        options += ["--until", str(int(until))]
        options += [] if row.small else ["--no-last"]
    if engine is not None:
        options += ["--engine", engine]
    return [sys.executable, "-m", "train", *arguments(row), *options]


def analyses(row: Row, *, device: str, gpu: bool, runs: Path, results: Path, limit: int | None) -> dict[str, list[str]]:
    """The commands that analyse a finished run, the most important first, by the folder of their results.

    gpu: attacks run in bf16 if True, else in fp32. The precision is named because ``auto`` differs between machines.
    Maps that are thresholded are fp32 everywhere. limit: test images, None for all.
    """
    attack, exact = ["--precision", "bf16" if gpu else "fp32"], ["--precision", "fp32"]
    steps = SECTION_2.get(row.place.partition("-")[0])
    section2 = ["--steps", str(steps)] if steps else []
    images = [] if limit is None else ["--limit", str(limit)]
    six = ["--images", "6"]
    commands = {
        "robust": ["robust", *images, *attack],
        "span-gradcam": ["span", "--map", "gradcam", *images, *exact],
        "contrib": ["contrib", "--attack", "pgd", *section2, *images, *attack],
        "sets": ["sets", *section2, *images, *attack],
        "span-smoothgrad": ["span", "--map", "smoothgrad", *images, *exact],
        "fc": ["fc"],
        "maps-smoothgrad": ["maps", *six, "--map", "smoothgrad", *exact],
        "maps-eq6": ["maps", *six, "--map", "eq6", "--attack", "pgd", *section2, *exact],
    }
    ckpt = ["--ckpt", f"{row.name}={runs / row.key / 'model.pt'}", "--device", device]
    return {
        name: [sys.executable, "-m", "attrib.cli", *command, *ckpt, "--out", str(results / row.key / name)]
        for name, command in commands.items()
    }


def last_line(output: str) -> str:
    """The last line of a command's output, for a message."""
    return (output.strip().splitlines() or ["no output"])[-1]
