"""Bad input to the command line: one line that says what to do, status 2, and nothing written."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attrib

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
    return place


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
    (("span", *A, "--out", "{bad}/file"), "cannot write to the folder"),
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
    (("span", "--model", "own_bad:small"), "--data: name one"),
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
    (("info", "{bad}/missing.pt"), "no such file"),
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
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
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
