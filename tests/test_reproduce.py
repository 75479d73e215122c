"""figures.reproduce: the rows of the papers' models can be trained, and are."""

from pathlib import Path

import pytest

from figures import models, names, reproduce
from quarter import commands


@pytest.mark.parametrize("kind", ["long", "short", "rehearsal"])
def test_what_is_reproduced_can_be_trained(kind: str) -> None:
    short = [*models.SHORT, *models.SHORT_SWEEPS]
    wanted = {"long": models.all_rows(sweeps=True), "short": short, "rehearsal": commands.REHEARSAL}[kind]
    places = [(row.place, row.name) for row in wanted]
    assert len(set(places)) == len(places)
    for row in wanted:
        config = models.config(row)
        assert f"{config.data}-{config.arch}" == row.place
        if match := names.SWEEP.fullmatch(row.name):
            swept = config.weight if match[1] == "aalp" else config.alpha
            assert swept == float(match[2])
        assert (config.seed > 0) == ("-seed" in row.name)


def test_reproduce_trains_what_is_not_finished_and_goes_on_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, unknown = commands.REHEARSAL[0], models.Row("glyphs-resnet9", "nothing", ("no-recipe",))
    tiny = tiny._replace(options=(*tiny.options, "--arch", "lenet"))
    assert [each.partition(":")[0] for each in reproduce.train_all([unknown, tiny], tmp_path, device="cpu")] == [
        unknown.key
    ]
    assert models.is_finished(tmp_path / tiny.key, epochs=1)
    written = (tmp_path / tiny.key / "model.pt").stat().st_mtime_ns
    capsys.readouterr()
    assert reproduce.train_all([tiny], tmp_path, device="cpu") == []
    assert (tmp_path / tiny.key / "model.pt").stat().st_mtime_ns == written
    assert capsys.readouterr().out == ""


def test_reproduce_prints_what_it_would_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--dry-run", "--short", "--sweeps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(models.SHORT) + len(models.SHORT_SWEEPS)
    assert lines[0] == "python -m train --recipe mnist-lenet-fast --recipe raw --seed 0 --out runs/mnist-lenet/raw"
