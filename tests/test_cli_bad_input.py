"""Bad input to the command line: one line that says what to do, status 2, and nothing written."""

import gzip
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Forks
from PIL import Image

import attrib

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).with_name("own_models.py")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/attrib-was-here",)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, models: Path, untrained: Any) -> Path:
    """A folder of things that are not what they should be."""
    place = tmp_path_factory.mktemp("bad")
    (place / "page.pt").write_text("<!DOCTYPE html><html>404</html>")
    (place / "code.pt").write_bytes(pickle.dumps(Malicious()))
    whole = (models / "a.pt").read_bytes()
    (place / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(attrib.load(models / "a.pt")[1].weights, place / "bare.pt")
    (place / "empty").mkdir()
    (place / "no-pictures" / "cat").mkdir(parents=True)
    for name in ("cat", "dog"):
        (place / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(place / "pictures" / name / "1.png")
    (place / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(place / "one" / "cat" / "1.png")
    (place / "pictures" / "dog" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    np.savez(place / "grey.npz", images=np.zeros((4, 32, 32), np.uint8), labels=np.arange(4))
    np.savez(place / "ten.npz", images=np.zeros((10, 32, 32, 3), np.uint8), labels=np.arange(10))
    np.savez(place / "maps.npz", map=np.zeros((3, 5, 5), np.float32))
    np.savez(place / "few.npz", map=np.zeros((3, 32, 32), np.float32))
    np.savez(place / "halves.npz", map=np.zeros((3, 32, 32), np.float32), index=np.array([0.2, 0.7, 1.1]))
    np.savez(place / "twice.npz", map=np.zeros((3, 32, 32), np.float32), index=np.array([0, 1, 1]))
    (place / "nothing.npz").touch()
    (place / "file").write_text("in the way")
    shutil.copy(OWN, place / "own_bad.py")
    untrained(place / "two.pt", 6, data="pictures", classes=2)
    make_bombs(place)
    make_fields(place, torch.load(models / "a.pt"))
    return place


def make_bombs(place: Path) -> None:
    """Small files that would take all memory, or all time, to read."""
    torch.save({"fc.weight": torch.zeros(1).expand(2_000_000_000)}, place / "expanded.pt")
    torch.save({f"fc.{k}": part for k, part in enumerate([torch.zeros(10**6)] * 200)}, place / "aliases.pt")
    pairs = b")q\x00" + b"".join(b"h%c\x86q%c" % (k, k + 1) for k in range(60))  # a pair of twice the pair before
    (place / "pairs.pt").write_bytes(b"\x80\x02}" + pairs + b"K\x01s.")
    (place / "memo.pt").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    with zipfile.ZipFile(place / "zip.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(10**8))
    for name, content in {
        "memo": b"\x80\x04Nr\xff\xff\xff\x7f.", "bytes": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        "pairs": b"\x80\x02}" + pairs + b"K\x01s.", "long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    }.items():  # fmt: skip
        batches = place / f"cifar-{name}" / "cifar-10-batches-py"
        batches.mkdir(parents=True)
        (batches / "test_batch").write_bytes(content)
    (place / "gzip" / "mnist").mkdir(parents=True)
    packed = gzip.compress(bytes(2**26)) * 5
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (place / "gzip" / "mnist" / name).write_bytes(packed)


FIELDS: dict[str, Any] = {
    "version": ("format_version", 10**30), "classes": ("num_classes", 10**30), "none": ("num_classes", 0),
    "shape": ("input_shape", (3, 10**9, 10**9)), "sides": ("input_shape", (3, -32, 32)),
    "mean": ("arch_kwargs", {"mean": [float("nan")] * 3, "std": [1.0] * 3}), "arch": ("arch", "x" * 10**6),
    "std": ("arch_kwargs", {"mean": [0.0] * 3, "std": [0.0] * 3}), "more": ("arch_kwargs", {"exec": "rm"}),
    "weights": ("weights", {"fc.weight": [1, 2]}),
}  # fmt: skip
"""Fields of a checkpoint that no model has."""


def make_fields(place: Path, content: dict[str, Any]) -> None:
    """Checkpoints of ours, each with one field out of range."""
    for name, (field, value) in FIELDS.items():
        torch.save(content | {field: value}, place / f"field-{name}.pt")


A = ("--ckpt", "{models}/a.pt")
BAD = [
    (("span",), "nothing to look at"),
    (("span", "--ckpt", "{bad}/missing.pt"), "no such file"),
    (("span", "--ckpt", "{bad}/page.pt"), "HTML"),
    (("span", "--ckpt", "{bad}/code.pt"), "refused"),
    (("span", "--ckpt", "{bad}/half.pt"), "truncated"),
    (("span", "--ckpt", "{bad}/empty"), "directory"),
    (("span", "--ckpt", "{bad}/bare.pt"), "--arch"),
    (("span", "--ckpt", "{bad}/bare.pt", "--arch", "resnet18", "--data", "glyphs"), "weights don't fit resnet18"),
    (("span", "--ckpt", "{bad}/bare.pt", "--arch", "vgg"), "expected one of lenet"),
    (("span", "--ckpt", "{models}/five.pt"), "10 classes"),
    (("span", "--ckpt", "{models}/a.pt", "--data", "npz:{bad}/grey.npz"), "grey"),
    (("span", "--ckpt", "a={models}/a.pt", "--ckpt", "a={models}/b.pt"), "two models are called 'a'"),
    (("span", *A, "--ckpt", "{models}/cifar.pt"), "trained on different data (a on glyphs, cifar on cifar10)"),
    (("span", *A, "--attack", "fgsm", "--steps", "3"), "belong to pgd and cw"),
    (("span", *A, "--data", "imagenet"), "expected one of glyphs"),
    (("span", *A, "--data", "folder:{bad}/empty"), "one folder per class"),
    (("span", *A, "--data", "folder:{bad}/no-pictures"), "no pictures"),
    (("span", *A, "--data", "folder:{bad}/nowhere"), "found nothing"),
    (("span", "--ckpt", "{bad}/two.pt", "--data", "folder:{bad}/pictures", "--size", "32"), "dog/2.png"),
    (("span", *A, "--data", "cifar100", "--data-root", "{bad}/empty"), "cifar"),
    (("span", *A, "--limit", "0"), "limit: expected at least 1"),
    (("span", *A, "--limit", "many"), "--limit"),
    (("span", *A, "--split", "dev"), "split: expected train or test"),
    (("span", *A, "--data", "npz:{bad}/ten.npz", "--split", "train"), "--split train: npz:"),
    (("span", "--model", "own_bad:small", "--data", "folder:{bad}/one", "--split", "train"), "is not split into"),
    (("span", *A, "--attack", "pgd", "--eps", "-0.1"), "--eps: expected a number in [0,1]"),
    (("span", *A, "--attack", "pgd", "--eps", "8"), "--eps: expected a number in [0,1]"),
    (("span", *A, "--attack", "pgd", "--steps", "0"), "--steps: expected at least 1"),
    (("span", *A, "--attack", "deepfool"), "--attack: expected fgsm, pgd or cw"),
    (("span", *A, "--eps", "0.1"), "need --attack"),
    (("span", *A, "--map", "lime"), "--map: expected one of gradient"),
    (("span", *A, "--threshold", "max:2"), "threshold: expected mean"),
    (("span", *A, "--threshold", "median"), "threshold: expected mean"),
    (("span", *A, "--target", "fake"), "--target: expected label, prediction, or a class"),
    (("span", *A, "--device", "tpu"), "device: expected auto"),
    (("span", *A, "--precision", "fp8"), "--precision: expected one of auto, fp32, bf16"),
    (("span", *A, "--layer", "stages.9"), "stages.1"),
    (("span", *A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("span", *A, "--out", "{bad}/file"), "out (--out): expected a folder, found a file at"),
    (("span", *A, "--out", "{bad}/file/below"), "cannot write to the folder"),
    (("span", *A, "--save-maps"), "--save-maps: needs a folder"),
    (("span", *A, "--speed", "3"), "--speed"),
    (("span", "--maps", "{bad}/maps.npz", "--data", "glyphs", "--limit", "3"), "32x32, got 5x5"),
    (("span", "--maps", "{bad}/few.npz", "--data", "glyphs", "--limit", "9"), "no map for 6 of the 9 images"),
    (("span", "--maps", "{bad}/ten.npz", "--data", "glyphs"), "it has no 'map'"),
    (("span", "--maps", "{bad}/page.pt", "--data", "glyphs"), "cannot be read"),
    (("span", "--maps", "{bad}/gone.npz", "--data", "glyphs"), "found nothing"),
    (("span", "--maps", "{bad}/nothing.npz", "--data", "glyphs"), "cannot be read"),
    (("span", "--maps", "{bad}/halves.npz", "--data", "glyphs"), "whole numbers, each once, got float64"),
    (("span", "--maps", "{bad}/twice.npz", "--data", "glyphs"), "whole numbers, each once, got int64"),
    (("span", *A, "--seed", "-1"), "--seed"),
    (("span", "--model", "own_bad:small"), "--data: expected the name of a data set"),
    (("span", "--model", "own_bad:fails", "--data", "glyphs"), "no weights"),
    (("span", "--model", "own_bad:number", "--data", "glyphs"), "int"),
    (("span", "--model", "own_bad:nothing", "--data", "glyphs"), "nothing"),
    (("span", "--model", "no_such_module:small", "--data", "glyphs"), "no_such_module"),
    (("span", "--model", "own_bad", "--data", "glyphs"), "package.module:factory"),
    (("span", "--model", "own_bad.py:small", "--data", "glyphs"), "my_code:build for my_code.py"),
    (("span", "--model", "own_bad:small", "--data", "{bad}/pictures"), "did you mean folder:{bad}/pictures?"),
    (("span", "--model", "own_bad:small", "--data", "{bad}/ten.npz"), "did you mean npz:{bad}/ten.npz?"),
    (("span", "--model", "own_bad:small", "--data", "glyphs", "--layer", "4"), "got an output without height"),
    (("check", "--model", "own_bad:small", "--data", "glyphs", "--layer", "2", "--map", "eq6"), "got one of 1x1"),
    (
        ("maps", "--model", "own_bad:small", "--data", "glyphs", "--layer", "0", "--map", "smoothgrad"),
        "smoothgrad looks at no layer",
    ),
    (("span", "--model", "own_bad:blind", "--data", "glyphs"), "Blind gives no gradient to explain"),
    (("robust", "--model", "own_bad:broken", "--data", "glyphs"), "expected finite logits, got NaN"),
    (("fc", "--model", "own_bad:small", "--mean", "123,1,1", "--std", "58,1,1", "--data", "glyphs"), "divide"),
    (("span", "--model", "own_bad:flat", "--data", "glyphs"), "--layer"),
    (("span", "--model", "own_bad:small", "--mean", "a,b", "--std", "1,1", "--data", "glyphs"), "--mean: expected num"),
    (("span", "--model", "own_bad:small", "--mean", "0,0", "--std", "1,1,1", "--data", "glyphs"), "mean"),
    (("span", "--model", "own_bad:small", "--mean", "0,0", "--std", "1,1", "--data", "glyphs"), "the 3 channels of"),
    (("fc", "--model", "own_bad:small", "--mean", "0", "--std", "1", "--data", "glyphs"), "small: mean, std:"),
    (("span", "--model", "own_bad:small", "--mean", "0,0,0", "--data", "glyphs"), "go together: --std is missing"),
    (("span", "--model", "own_bad:small", "--std", "1,1,1", "--data", "glyphs"), "go together: --mean is missing"),
    (("span", "--model", "own_bad:small", "--data", "folder:{bad}/one", "--classes", "{bad}/no"), "--classes: "),
    (("span", "--model", "own_bad:small", "--model", "own_bad:small"), "with NAME=SPEC"),
    (("span", *A, "--model", "a=own_bad:small"), "with NAME=SPEC"),
    (("maps", *A, "--images", "0"), "--images: expected at least 1"),
    (("maps", *A, "--index", "99999999"), "--index: expected positions in"),
    (("maps", *A, "--index", "x"), "--index: expected positions"),
    (("maps", *A, "--threshold", "max:2"), "threshold: expected mean"),
    (("maps",), "nothing to look at"),
    (("info",), "name at least one checkpoint"),
    (("info", "{bad}/missing.pt"), "found nothing"),
    (("nonsense",), "nonsense"),
    (("roburst",), "did you mean robust?"),
    (("span", *A, "--tresholdd", "mean"), "did you mean --threshold?"),
    (("span", *A, "--data", "Glyph"), "did you mean glyphs?"),
    (("span", *A, "--data", "fodler:{bad}"), "did you mean folder:{bad}?"),
    (("span", *A, "--map", "Smooth_Grad"), "did you mean smoothgrad?"),
    (("span", *A, "--threshold", "mas:0.5"), "did you mean mass:0.5?"),
    (("span", *A, "--target", "predicted"), "did you mean prediction?"),
    (("span", *A, "--attack", "PDG"), "did you mean pgd?"),
    (("span", "zoo:mnist-lenet-mardy"), "did you mean zoo:mnist-lenet-madry?"),
    (("span", "mnist-lenet-madry"), "did you mean zoo:mnist-lenet-madry?"),
    (("span", "{models}/fivee.pt"), "did you mean {models}/five.pt?"),
    (("fc", "{bad}/bare.pt", "--arch", "LeNet"), "did you mean lenet?"),
    (("info", "{models}/fivee.pt"), "did you mean {models}/five.pt?"),
    (("span", "own_bad:smal", "--data", "glyphs"), "did you mean small?"),
    (("span", "ownbad:small", "--data", "glyphs"), "did you mean own_bad:small?"),
    (("span", "tim:resnet50", "--data", "glyphs"), "did you mean timm:resnet50?"),
    (("span", *A, "--data", "folder:{bad}/picture"), "did you mean folder:{bad}/pictures?"),
    (("span", *A, "--data", "npz:{bad}/tne.npz"), "did you mean npz:{bad}/ten.npz?"),
    (("span", "--maps", "{bad}/fews.npz", "--data", "glyphs"), "did you mean {bad}/few.npz?"),
    (("maps", *A, "{bad}/pictures/dog/2.pgn.png"), "did you mean {bad}/pictures/dog/2.png?"),
    (("evolve", "{bad}/picturs"), "did you mean {bad}/pictures?"),
    (("span", *A, "--device", "cuda:99"), "--device: expected auto, cpu, cuda or cuda:N that this machine has"),
    (("fc", *A, "--device", "mps"), "no float64"),
    (("span", *A, "--device", "meta"), "--device: expected auto"),
    (("span", *A, "--device", "cpu:9"), "--device: expected auto"),
    # Small files that take all memory or time
    (("info", "{bad}/expanded.pt"), "would take 8,000,000,000 bytes"),
    (("fc", "{bad}/expanded.pt", "--arch", "lenet"), "would take 8,000,000,000 bytes"),
    (("fc", "{bad}/aliases.pt", "--arch", "lenet"), "would take 800,000,000 bytes"),
    (("info", "{bad}/pairs.pt"), "an object of more than 100,000,000 others"),
    (("info", "{bad}/memo.pt"), "its memo has an entry 2147483647"),
    (("info", "{bad}/zip.pt"), "unpacks to more than its size"),
    *((("span", *A, "--data", "cifar10", "--data-root", f"{{bad}}/cifar-{name}"), "test_batch: not a CIFAR batch")
      for name in ("memo", "bytes", "pairs", "long")),
    (("span", *A, "--data", "mnist", "--data-root", "{bad}/gzip"), "expected at most 268,435,456 bytes"),
    # Fields of a checkpoint that no model has
    *((("info", f"{{bad}}/field-{name}.pt"), f"field-{name}.pt: ") for name in FIELDS),
    # Names that no table holds
    (("span", "x" * 201 + "={models}/a.pt", "--limit", "2"), "a model's name: expected at most 200 characters"),
    (("span", "a\x1b[31mred={models}/a.pt", "--limit", "2"), "got 'a\\x1b[31mred'"),
    (("span", "a\0b={models}/a.pt", "--limit", "2"), "got 'a\\x00b'"),
    (("span", "x" * 5000 + ".pt"), "name too long"),
    (("span", "{bad}/\x1b[2Jno.pt"), "\\x1b[2Jno.pt: no such file"),
    (("span", "{bad}/\udcff.pt"), "\\udcff.pt: no such file"),
    (("span", *A, "--map", "y" * 10**6), "got 'yyy"),
    (("span", *A, "--out", "y" * 300), "name too long"),
    (("report", *A, "--out", "y" * 300 + ".html"), "name too long"),
    # Numbers that no machine holds
    *((("span", *A, f"--{name}", str(10**30)), f"--{name}: expected at")
      for name in ("limit", "batch-size", "seed", "floor")),
    (("span", *A, "--attack", "pgd", "--steps", str(10**30)), "--steps: expected at most 9223372036854775807"),
    (("robust", *A, "--steps", f"1,{10**30}"), "--steps: expected at least 1, in whole numbers that a machine holds"),
    (("maps", *A, "--images", str(10**30)), "--images: expected at most 9223372036854775807"),
    (("span", "--model", "own_bad:small", "--size", str(10**30), "--data", "glyphs"), "at most 8192"),
    (("span", "--model", "own_bad:small", "--size", "0", "--data", "glyphs"), "expected at least 1"),
    # Nothing where something is expected
    (("span", *A, "--layer", ""), "--layer: expected text"),
    (("span", *A, "--data", ""), "--data: expected the name"),
    (("span", "--ckpt", ""), "separated by single commas"),
    (("span", *A, "--map", ""), "--map: expected one of"),
    (("span", *A, "--device", ""), "--device: expected auto"),
    *(((*line, f"--{name}", ""), f"--{name}: expected a path, got ''")
      for line, names in ((("span", *A), ("out", "data-root", "classes")), (("report", *A), ("out", "results")))
      for name in names),
    (("span", *A, "--out", "~nosuchuser/x"), "--out: expected a path, got '~nosuchuser/x'; there is no such user"),
    (("span", "~nosuchuser/a.pt"), "no such file"),
    (("span", *A, "--data", "cifar10", "--data-root", "~nosuchuser"), "~nosuchuser"),
    (("span", *A, "--data", "folder:~nosuchuser"), "found nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[ascii(" ".join(arguments))[:60] for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(
    run: Any, models: Path, bad: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.delenv("ATTRIB_DATA", raising=False)
    before = sorted(bad.rglob("*"))
    done = run(*(argument.format(models=models, bad=bad) for argument in arguments))
    assert words.format(bad=bad, models=models) in done.refused(warned=True)
    assert "Traceback" not in done.err
    assert [path for path in sorted(bad.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]
    assert not Path("/tmp/attrib-was-here").exists()


KINDS = {
    "no model": ("span",),
    "no such file": ("span", "--ckpt", "{bad}/missing.pt"),
    "a folder for a file": ("span", "--ckpt", "{bad}/empty"),
    "another format": ("span", "--ckpt", "{bad}/page.pt"),
    "a pickle that runs code": ("span", "--ckpt", "{bad}/code.pt"),
    "a file that is cut off": ("span", "--ckpt", "{bad}/half.pt"),
    "weights of another architecture": ("span", "--ckpt", "{bad}/bare.pt", "--arch", "resnet18", "--data", "glyphs"),
    "a field out of range": ("info", "{bad}/field-classes.pt"),
    "an expanded tensor": ("info", "{bad}/expanded.pt"),
    "a nested tuple": ("info", "{bad}/pairs.pt"),
    "a zip bomb": ("info", "{bad}/zip.pt"),
    "a gzip bomb": ("span", *A, "--data", "mnist", "--data-root", "{bad}/gzip"),
    "a CIFAR pickle": ("span", *A, "--data", "cifar10", "--data-root", "{bad}/cifar-memo"),
    "no such module": ("span", "--model", "no_such_module:small", "--data", "glyphs"),
    "a factory that fails": ("span", "--model", "own_bad:fails", "--data", "glyphs"),
    "an output that is not finite": ("robust", "--model", "own_bad:broken", "--data", "glyphs"),
    "a broken picture": ("span", "--ckpt", "{bad}/two.pt", "--data", "folder:{bad}/pictures", "--size", "32"),
    "data that does not fit": ("span", "--ckpt", "{models}/a.pt", "--data", "npz:{bad}/grey.npz"),
    "maps that do not fit": ("span", "--maps", "{bad}/maps.npz", "--data", "glyphs", "--limit", "3"),
    "a misspelt command": ("roburst",),
    "an unknown option": ("span", *A, "--speed", "3"),
    "a value that is not allowed": ("span", *A, "--threshold", "max:2"),
    "a number beyond the machine": ("span", *A, "--limit", str(10**30)),
    "a device that is not there": ("span", *A, "--device", "cuda:99"),
    "a layer that is not there": ("span", *A, "--layer", "stages.9"),
    "nothing": ("span", *A, "--out", ""),
    "a name too long": ("span", "x" * 5000 + ".pt"),
    "an output in the way": ("span", *A, "--out", "{bad}/file"),
}
"""A command for every kind of bad input."""
ALONE = [
    case for case in BAD
    if case[0] in KINDS.values() or re.search("expanded|aliases|pairs|memo|zip|cifar-|field-|half", " ".join(case[0]))
]  # fmt: skip


def test_bad_input_takes_neither_time_nor_memory(bad: Path, models: Path, forks: Forks) -> None:
    assert {*KINDS.values()} <= {arguments for arguments, _ in ALONE}
    for arguments, words in ALONE:
        line = [argument.format(models=models, bad=bad) for argument in arguments]
        statuses, out, err = forks.run(line, cwd=bad, limited=True)
        said = [each for each in err.splitlines() if "warning" not in each]
        assert (statuses, out, len(said), words.format(bad=bad) in err) == ([2], "", 1, True), (line, statuses, err)
