"""quarter/: the archive that carries runs between machines, the mosaics that carry data, and the sizes of both."""

import lzma
import random
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

import attrib
from attrib.data import readers
from attrib.errors import InputError
from attrib.models import checkpoint
from figures import models
from figures.models import Row
from quarter import __main__ as quarter
from quarter import commands, ledger, mosaics, pack
from quarter.mosaics import Part
from quarter.pack import Member

SMALL_DONE, SMALL_CUT, LARGE = (
    Row("glyphs-lenet", "alp", ()), Row("glyphs-lenet", "aalp", (), (), 1), Row("glyphs-resnet9", "pgd-at", ())
)  # fmt: skip
ROWS = [LARGE, SMALL_DONE, SMALL_CUT]
ENTRY: ledger.Entry = dict.fromkeys(ledger.KEYS, "x") | {"recipe": "glyphs-lenet/alp", "seed": 0}


@pytest.fixture
def machine(tmp_path: Path, untrained: Callable[..., Path]) -> Path:
    """What a queue leaves: a finished large run, a finished small one with an epoch, and an unfinished one."""
    place = tmp_path / "machine"
    for number, (row, epochs) in enumerate(((LARGE, 2), (SMALL_DONE, 2), (SMALL_CUT, 3))):
        run = place / "runs" / row.key
        run.mkdir(parents=True)
        _trained(untrained, run / "model.pt", number, epochs)
        (run / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
        (run / "train.log").write_text("not carried")
        torch.save({"weights": torch.randn(100)}, run / "last.pt")
    _trained(untrained, place / "runs" / SMALL_DONE.key / "epoch-1.pt", 9, 2)
    out = place / "results" / SMALL_DONE.key / "robust"
    out.mkdir(parents=True)
    (out / "robust.json").write_text('{"a": 1}\n')
    (out / "robust.csv").write_text("index,model\n" + "".join(f"{i},alp\n" for i in range(100)))
    ledger.merge(place / "ledger.json", [ENTRY])
    return place


def _trained(untrained: Callable[..., Path], path: Path, seed: int, epochs: int) -> None:
    ckpt = checkpoint.read(untrained(path, seed))
    content: dict[str, Any] = {name: getattr(ckpt, name) for name in ckpt.__dataclass_fields__}
    checkpoint.save(checkpoint.Checkpoint(**content | {"hyper": {"epochs": epochs}}), path)


def collected(machine: Path) -> list[Member]:
    return pack.collect(
        ROWS, runs=machine / "runs", results=machine / "results", ledger_path=machine / "ledger.json"
    )  # fmt: skip


def unpacked(parts: Path, home: Path) -> list[str]:
    return pack.unpack(parts, runs=home / "runs", results=home / "results", ledger_path=home / "ledger.json")


def test_what_is_unpacked_is_what_was_packed(machine: Path, tmp_path: Path) -> None:
    members, home = collected(machine), tmp_path / "home"
    ledger.merge(home.parent / "home.json", [ENTRY | {"seed": 7}])
    home.mkdir()
    shutil.move(tmp_path / "home.json", home / "ledger.json")
    assert pack.pack(members, tmp_path / "parts", part=1_000_000) == []
    assert unpacked(tmp_path / "parts", home) == [member.path for member in members]

    results, own = (place / "results" / SMALL_DONE.key / "robust" for place in (home, machine))
    assert (results / "robust.json").read_bytes() == (own / "robust.json").read_bytes()
    assert lzma.decompress((results / "robust.csv.xz").read_bytes()) == (own / "robust.csv").read_bytes()
    assert [entry["seed"] for entry in ledger.read(home / "ledger.json")] == [7, 0]
    for row, name in ((LARGE, "model.pt"), (SMALL_DONE, "model.pt"), (SMALL_DONE, "epoch-1.pt")):
        before = checkpoint.read(machine / "runs" / row.key / name)
        after = checkpoint.read(home / "runs" / row.key / name)
        assert after.hyper == before.hyper
        for key, tensor in before.weights.items():
            assert torch.equal(after.weights[key], tensor.half() if tensor.is_floating_point() else tensor)
        model, _ = attrib.load(home / "runs" / row.key / name)
        assert model(torch.rand(1, 3, 32, 32)).isfinite().all()
    # What is to continue is the same to the last bit.
    for name in ("last.pt", "model.pt", "log.jsonl"):
        path = Path("runs") / SMALL_CUT.key / name
        assert (home / path).read_bytes() == (machine / path).read_bytes()
    assert not (home / "runs" / SMALL_DONE.key / "last.pt").exists()
    assert not list((home / "runs").rglob("train.log"))


def test_results_come_first_and_large_networks_after_small_ones(machine: Path) -> None:
    paths = [member.path for member in collected(machine)]
    results = [path for path in paths if not path.endswith(".pt")]
    assert paths[0] == "ledger.json"
    assert paths == [
        *results, f"runs/{SMALL_CUT.key}/last.pt", f"runs/{SMALL_CUT.key}/model.pt", f"runs/{SMALL_DONE.key}/model.pt",
        f"runs/{LARGE.key}/model.pt", f"runs/{SMALL_DONE.key}/epoch-1.pt",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_parts_keep_their_size_and_only_what_does_not_fit_is_left_out(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    sizes = [draw.choice((10, 700, 3000, 20_000)) for _ in range(20)]
    members = [Member(f"results/{i}", 1, partial(random.Random(i).randbytes, n)) for i, n in enumerate(sizes)]
    part, total = 9_000, draw.choice((15_000, 40_000, 70_000, 10**6))
    left_out = pack.pack(members, tmp_path / "parts", part=part, total=total)
    written = [path.stat().st_size for path in (tmp_path / "parts").iterdir()]
    assert len(written) <= pack.PARTS
    assert max(written) <= part
    assert sum(written) <= min(total, part * pack.PARTS)
    assert unpacked(tmp_path / "parts", tmp_path / "home") == [m.path for m in members if m.path not in left_out]
    used = pack.TAIL
    for member, size in zip(members, sizes, strict=True):
        if member.path in left_out:  # random bytes do not compress
            assert used + size + pack.BLOCK > min(total, part * pack.PARTS) - 2 * pack.BLOCK
        else:
            used += pack.BLOCK + -(-size // pack.BLOCK) * pack.BLOCK


def test_planes_are_put_together_again() -> None:
    for size in (0, 1, 7, 4096, 4099):
        content = random.Random(size).randbytes(size)
        for planes in (1, 2, 4):
            member = Member("runs/x", planes, partial(bytes, content))
            assert pack._restored(pack._compressed(member), planes) == content


def test_half_precision_compresses_better_in_planes(tmp_path: Path, untrained: Callable[..., Path]) -> None:
    content = pack.halved(untrained(tmp_path / "model.pt"))
    together, split = (len(pack._compressed(Member("", planes, partial(bytes, content)))) for planes in (1, 2))
    assert split < 0.97 * together


def test_no_other_run_is_overwritten(machine: Path, tmp_path: Path) -> None:
    pack.pack(collected(machine), tmp_path / "parts")
    log = tmp_path / "home" / "runs" / SMALL_CUT.key / "log.jsonl"
    unpacked(tmp_path / "parts", tmp_path / "home")
    log.write_text('{"epoch": 1}\n')  # an earlier state of the same run
    unpacked(tmp_path / "parts", tmp_path / "home")
    log.write_text('{"epoch": 1, "seconds": 3}\n')
    with pytest.raises(InputError, match="holds another run"):
        unpacked(tmp_path / "parts", tmp_path / "home")


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    with pytest.raises(InputError, match="expected the parts of one archive"):
        unpacked(parts, tmp_path / "home")
    pack.pack([Member("results/x", 1, partial(random.Random(0).randbytes, 9000))], parts, part=4000)
    second = next(parts.glob("pack-2-of-*"))
    second.rename(tmp_path / "kept")
    with pytest.raises(InputError, match=f"lacks {second.name}"):
        unpacked(parts, tmp_path / "home")
    second.write_bytes(b"x" * 10_000)
    with pytest.raises(InputError, match="not an archive of runs"):
        unpacked(parts, tmp_path / "home")
    shutil.rmtree(parts)
    pack.pack([Member("elsewhere/../../x", 1, lambda: b"")], parts)
    with pytest.raises(InputError, match="belongs to no archive of runs"):
        unpacked(parts, tmp_path / "home")
    assert not (tmp_path / "home").exists()


# Data


def test_mosaics_become_the_usual_files(tmp_path: Path) -> None:
    """They are read by the readers of the official layouts."""
    source, target = tmp_path / "mosaics", tmp_path / "data"
    source.mkdir()
    with pytest.raises(InputError, match=r"mnist-test-0 are missing"):
        mosaics.unpack(source, target)
    for part in mosaics.ALL:
        mosaics.write(*quarter.digits(part), source / part.name)
    mosaics.unpack(source, target)
    quarter.check_data(target)
    images, labels = readers.cifar_binary([target / "cifar-10-batches-bin/test_batch.bin"], classes=10)
    expected, numbers = quarter.digits(Part("cifar10", "test", 0))
    assert torch.equal(images, expected)
    assert torch.equal(labels, numbers)
    grey, _ = readers.mnist([target / "mnist" / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")])
    assert torch.equal(grey, quarter.digits(Part("mnist", "test", 0))[0])


def test_noise_survives_a_mosaic(tmp_path: Path) -> None:
    images = torch.randint(256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mosaics.write(images, torch.arange(200) % 10, tmp_path / "x")
    read, labels = mosaics.read(tmp_path / "x", side=32, channels=3)
    assert torch.equal(read, images)
    assert labels.tolist() == [n % 10 for n in range(200)]


def test_every_mosaic_travels_once() -> None:
    assert sorted(part for parts in quarter.CALLS.values() for part in parts) == sorted(mosaics.ALL)


def test_a_call_that_carries_too_much_is_refused(tmp_path: Path) -> None:
    for call in quarter.CALLS:
        (tmp_path / str(call)).mkdir()
    (tmp_path / "2" / "x.webp").write_bytes(b"x" * 2**20)
    quarter.check_sizes(tmp_path, quarter.LIMIT - 2**20)
    with pytest.raises(InputError, match=r"call 2: expected at most 62 MiB"):
        quarter.check_sizes(tmp_path, quarter.LIMIT - 2**20 + 1)


def test_states_travel_where_there_is_room(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = tmp_path / "load"
    monkeypatch.setattr(models, "all_rows", lambda **_: ROWS)
    monkeypatch.setattr(quarter, "continues", lambda _, run: run.name == SMALL_CUT.name)
    for call in quarter.CALLS:
        (load / str(call)).mkdir(parents=True)
        (load / str(call) / "x").write_bytes(b"x" * (10 if call == 3 else 1000))
    quarter.carry_states(machine / "runs", load, tree=0)
    assert {path.name for path in (load / "3" / "runs" / SMALL_CUT.key).iterdir()} == {
        "last.pt",
        "model.pt",
        "log.jsonl",
    }
    assert not (load / "1" / "runs").exists()
    quarter.carry_states(machine / "runs", load, tree=quarter.LIMIT - 1000)
    assert "stays here" in capsys.readouterr().out
    assert not (load / "3" / "runs").exists()


def test_only_a_run_of_the_same_options_continues(tmp_path: Path, untrained: Callable[..., Path]) -> None:
    run = tmp_path / commands.CUT.key
    run.mkdir(parents=True)
    assert not quarter.continues(commands.CUT, run)
    _trained(untrained, run / "model.pt", 0, 100)
    for changed, expected in (({}, True), ({"lr": 0.5}, False)):
        torch.save({"config": models.config(commands.CUT).as_dict() | changed}, run / "last.pt")
        assert quarter.continues(commands.CUT, run) == expected


def test_the_repository_stays_small_enough_to_travel() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(path.lstat().st_size for path in paths if path.exists()) < 25 * 2**20
