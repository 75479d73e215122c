import copy
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import foolbox
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib import accuracy, attack, autoattack, objections, stats
from attrib.data import Batch, dataset
from attrib.errors import InputError
from attrib.loss import cross_entropy, margin
from attrib.models.gated import GatedClassifier
from train.config import Config
from train.loop import train

EPS, STEP = 0.12, 0.04
COLUMNS = ["fgsm", "pgd-2", "pgd-6", "cw-2", "cw-6"]


class Trained(NamedTuple):
    """A LeNet that has seen 3,000 images of MNIST, test images that it mostly knows, and our row of fp32 results."""

    model: nn.Module
    batch: Batch
    row: dict[str, accuracy.Outcome]

    def accuracy(self, attack: str) -> float:
        return float((self.row[attack].prediction == self.batch.label).float().mean())


def row_of(model: nn.Module, batch: Batch, **changes: Any) -> dict[str, accuracy.Outcome]:
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP, "steps": (2, 6), "index": batch.index} | changes
    return accuracy.attacked(model, batch.image, batch.label, **settings)


@pytest.fixture(scope="module")
def trained(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("lenet")
    config = Config(
        method="standard", data="mnist", arch="lenet", limit=3000, holdout=100, epochs=2, batch_size=100,
        optimizer="adam", lr=2e-3, weight_decay=0.0, steps=1,
    )  # fmt: skip
    train(config, out, root=real_data)
    model, _ = attrib.load(out / "model.pt")
    (batch,) = dataset("mnist", root=real_data, limit=400).batches(400)
    return Trained(model, batch, row_of(model, batch))


def test_pgd_is_as_strong_as_foolbox(trained: Trained) -> None:
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=6, random_start=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found, _, _ = theirs(
            foolbox.PyTorchModel(trained.model, bounds=(0, 1), device="cpu"),
            trained.batch.image, trained.batch.label, epsilons=EPS,
        )  # fmt: skip
    expected = float((trained.model(found).argmax(1) == trained.batch.label).float().mean())
    assert 0.1 < expected < 0.9  # neither all nor none, or any attack would agree
    assert trained.accuracy("pgd-6") == pytest.approx(expected, abs=0.005)


def test_cw_is_as_strong_as_a_loop_in_float64(trained: Trained) -> None:
    image, label = trained.batch.image.double(), trained.batch.label
    model = copy.deepcopy(trained.model).double().eval()
    x = image + EPS * (2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(1)).double() - 1)
    others = ~nn.functional.one_hot(label, 10).bool()
    for _ in range(6):
        x = x.clamp(0, 1).detach().requires_grad_()
        z = model(x)
        (z[others].view(-1, 9).max(1).values - z[~others]).sum().backward()
        assert x.grad is not None
        x = (x + STEP * x.grad.sign()).detach().clamp(image - EPS, image + EPS)
    expected = float((model(x.clamp(0, 1)).argmax(1) == label).float().mean())
    assert 0.1 < expected < 0.9
    assert trained.accuracy("cw-6") == pytest.approx(expected, abs=0.005)


def test_bfloat16_is_as_strong(trained: Trained) -> None:
    row = row_of(trained.model, trained.batch, precision="bf16")
    for name in COLUMNS:
        accuracy = float((row[name].prediction == trained.batch.label).float().mean())
        assert accuracy == pytest.approx(trained.accuracy(name), abs=0.005), name


class Small(nn.Module):
    """Fast, smooth in the image, and its images differ in how much they withstand."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                nn.Linear(32, classes),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x - 0.5)
        return logits


@pytest.fixture
def model() -> Small:
    return Small()


def batch_for(model: nn.Module, *, count: int = 40, wrong: int = 4, size: int = 8) -> Batch:
    """Images of noise with the labels that the model gives them, but for the last few."""
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(image)
    label = logits.argmax(1)
    label[count - wrong :] = (label[count - wrong :] + 1) % logits.shape[1]
    return Batch(image, label, torch.arange(count) + 100, None)


SMALL: dict[str, Any] = {"eps": 0.03, "step_size": 0.025, "steps": (1, 3, 7)}


def broken(row: dict[str, accuracy.Outcome], batch: Batch) -> dict[str, Tensor]:
    return {name: outcome.prediction != batch.label for name, outcome in row.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_worst_breaks_whatever_any_step_or_the_clean_image_breaks(model: Small, precision: str) -> None:
    batch = batch_for(model)
    plain = broken(row_of(model, batch, **SMALL, precision=precision), batch)
    worst = broken(row_of(model, batch, **SMALL, precision=precision, worst=True), batch)
    every = row_of(model, batch, **SMALL | {"steps": tuple(range(1, 8))}, precision=precision)
    assert 4 < plain["pgd-7"].sum() < 40
    for kind in ("pgd", "cw"):
        for k in (1, 3, 7):
            assert not (plain[f"{kind}-{k}"] & ~worst[f"{kind}-{k}"]).any()
            ever = torch.stack([every[f"{kind}-{step}"].prediction != batch.label for step in range(1, k + 1)]).any(0)
            clean = accuracy.evaluate(model, batch.image, batch.label).prediction != batch.label
            # The start itself is an iterate too, and may break what no step does.
            assert not ((ever | clean) & ~worst[f"{kind}-{k}"]).any()
        assert not (worst[f"{kind}-3"] & ~worst[f"{kind}-7"]).any()


def test_more_restarts_break_no_less_and_each_has_its_own_starts(model: Small) -> None:
    batch = batch_for(model)
    rows = [row_of(model, batch, **SMALL, restarts=restarts) for restarts in (1, 2, 5)]
    for fewer, more in pairwise(rows):
        after = broken(more, batch)
        assert all(not (before & ~after[name]).any() for name, before in broken(fewer, batch).items())
        assert (more["pgd-1"].margin >= fewer["pgd-1"].margin).all()
        assert (more["pgd-1"].margin > fewer["pgd-1"].margin).any()


def test_restarts_are_the_worst_of_single_runs(model: Small) -> None:
    batch = batch_for(model)
    runs = [
        attack.snapshots(
            model, batch.image, batch.label, objective=cross_entropy, index=batch.index, restart=restart, **SMALL
        )
        for restart in range(3)
    ]
    found = broken(row_of(model, batch, **SMALL, restarts=3), batch)
    for k in SMALL["steps"]:
        expected = torch.stack([model(run[k]).argmax(1) != batch.label for run in runs]).any(0)
        assert torch.equal(found[f"pgd-{k}"], expected)


def test_snapshots_are_what_separate_runs_give(model: Small) -> None:
    batch = batch_for(model)
    together = row_of(model, batch, **SMALL)
    assert list(together) == ["fgsm", "pgd-1", "pgd-3", "pgd-7", "cw-1", "cw-3", "cw-7"]
    for k in SMALL["steps"]:
        alone = row_of(model, batch, **SMALL | {"steps": (k,)})
        for name in ("fgsm", f"pgd-{k}", f"cw-{k}"):
            torch.testing.assert_close(together[name], alone[name])


def test_the_row_is_the_public_attacks_judged(model: Small) -> None:
    batch = batch_for(model)
    row = row_of(model, batch, **SMALL)
    settings = {"eps": SMALL["eps"], "step_size": SMALL["step_size"], "steps": 3, "index": batch.index}
    for name, images in {
        "fgsm": attrib.fgsm(model, batch.image, batch.label, eps=SMALL["eps"]),
        "pgd-3": attrib.pgd(model, batch.image, batch.label, **settings),
        "cw-3": attrib.cw(model, batch.image, batch.label, **settings),
    }.items():
        torch.testing.assert_close(row[name], accuracy.evaluate(model, images, batch.label))
        assert torch.equal(row[name].prediction != batch.label, row[name].margin > 0)


def test_no_answer_depends_on_the_batch(model: Small) -> None:
    batch = batch_for(model)
    whole = row_of(model, batch, **SMALL, restarts=2)
    half = Batch(batch.image[7:20], batch.label[7:20], batch.index[7:20], None)
    for name, outcome in row_of(model, half, **SMALL, restarts=2).items():
        torch.testing.assert_close(outcome.margin, whole[name].margin[7:20], rtol=1e-4, atol=1e-5)


def test_a_ball_of_radius_0_holds_the_image_alone(model: Small) -> None:
    batch = batch_for(model)
    clean = accuracy.evaluate(model, batch.image, batch.label)
    for outcome in row_of(model, batch, **SMALL | {"eps": 0.0}).values():
        assert torch.equal(outcome.prediction, clean.prediction)
    assert int((clean.prediction != batch.label).sum()) == 4


@pytest.mark.parametrize("worst", [False, True])
def test_a_gated_model_is_as_robust_as_against_the_worst_of_its_attacks(worst: bool) -> None:
    model = gated()
    batch = batch_for(model, count=24, wrong=0, size=16)
    settings: dict[str, Any] = {"eps": 0.02, "step_size": 0.008, "steps": (2, 5), "worst": worst}
    row = row_of(model, batch, **settings)
    paths = accuracy.attack_paths(model)
    assert [path.name for path in paths] == ["logits", "combined", "head 1", "head 2"]
    for kind in ("pgd", "cw"):
        runs = [
            attack.snapshots(
                model, batch.image, batch.label, forward=path.forward, index=batch.index,
                objective=path.loss if kind == "pgd" else path.margin, **settings,
            )
            for path in paths
        ]  # fmt: skip
        for k in (2, 5):
            wrong = torch.stack([model(run[k]).argmax(1) != batch.label for run in runs])
            outcome = row[f"{kind}-{k}"]
            assert torch.equal(outcome.prediction != batch.label, wrong.any(0))
            named = wrong.gather(0, outcome.path[None])[0]
            assert torch.equal(named, wrong.any(0))  # the path said to have done it is one that did


def gated() -> GatedClassifier:
    """With heads that do not all predict one class, and statistics of batch norm that suit the images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = attrib.build("resnet32", num_classes=5, input_shape=(3, 16, 16), gated=True)
        model(torch.rand(64, 3, 16, 16))
        assert isinstance(model, GatedClassifier)
        with torch.no_grad():
            for gate in model.gates:
                gate.head.weight.add_(torch.randn_like(gate.head.weight))
    return model.eval()


def test_a_path_through_one_head_is_the_attack_on_that_head_alone() -> None:
    """Compared with the public attacks on a module that answers with the head's logits."""

    class Head(nn.Module):
        def __init__(self, model: GatedClassifier, number: int) -> None:
            super().__init__()
            self.model, self.number = model, number

        def forward(self, x: Tensor) -> Tensor:
            return self.model.heads(x)[self.number]

    model = gated()
    batch = batch_for(model, count=8, wrong=0, size=16)
    settings: dict[str, Any] = {"eps": 0.02, "step_size": 0.008, "index": batch.index}
    for number, path in enumerate(accuracy.attack_paths(model)[2:]):
        head = Head(model, number).eval()
        for objective, public in ((path.loss, attrib.pgd), (path.margin, attrib.cw)):
            found = attack.snapshots(
                model, batch.image, batch.label, forward=path.forward, objective=objective, steps=(3,), **settings
            )
            torch.testing.assert_close(found[3], public(head, batch.image, batch.label, steps=3, **settings))


@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_withstanding_pgd_is_the_column_alone(kind: str) -> None:
    model: nn.Module = gated() if kind == "gated" else Small()
    batch = batch_for(model, wrong=3, size=16)
    settings: dict[str, Any] = {"eps": 0.005 if kind == "gated" else 0.03, "index": batch.index}
    settings["step_size"] = settings["eps"] * 0.4
    row = accuracy.attacked(model, batch.image, batch.label, steps=(5,), **settings)
    stood = accuracy.correct_under_pgd(model, batch.image, batch.label, steps=5, **settings)
    assert torch.equal(stood, row["pgd-5"].prediction == batch.label)
    assert 0 < stood.sum() < len(stood)


def test_the_interval_of_a_gap_is_newcombe_s() -> None:
    """Newcombe (1998), Table II, method 10."""
    for (a, m), (b, n), expected in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ):
        difference, low, high = stats.unpaired_shares(np.arange(m) < a, np.arange(n) < b)
        assert difference == pytest.approx(a / m - b / n)
        assert (low, high) == pytest.approx(expected, abs=1e-4)


class Detached(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Saturated(Small):
    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * super().forward(x)


class Steep(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0.5 + (x - 0.5) * 1e9)


def test_gradients_that_say_nothing_are_measured() -> None:
    for model, blind in ((Small(), False), (Detached(), True), (Saturated(), True)):
        batch = batch_for(model, wrong=0)
        size = accuracy.gradient_size(model, batch.image, batch.label)
        assert bool((size == 0).float().mean() > 0.5) is blind
        row = row_of(model, batch, **SMALL)  # no error: the images stay where they started
        assert len(row["pgd-7"].prediction) == 40
    steep = Steep()
    batch = batch_for(steep, wrong=20)
    assert (accuracy.gradient_size(steep, batch.image, batch.label) > objections.EXPLODING).any()


def said(**changes: Any) -> str:
    """The doubts about a sound model, but for what is changed."""
    label = np.arange(200) % 10
    right = {"fgsm": label < 6, "pgd-20": label < 4, "cw-20": label < 4}
    given: dict[str, Any] = {
        "clean": label < 9, "label": label, "gradient": np.full(200, 0.1), "steps": (20,), "classes": 10,
        "causes": "is the model trained?",
        "points": [objections.Point(0.1, 0.02, right)],
    }  # fmt: skip
    return " / ".join(objections.objections(**given | changes))


def test_steps_that_do_not_lead_to_the_edge_are_told() -> None:
    assert list(objections.warn_short_attack(8 / 255, 2 / 255, 4)) == []
    (said,) = objections.warn_short_attack(0.3, 0.01, 5)
    assert said.startswith("5 steps of 0.01 cannot reach the edge of eps 0.3")


def test_experts_doubts() -> None:
    label = np.arange(200) % 10
    few, many = label < 2, label < 8
    assert said() == ""
    assert "commonest" in said(clean=label < 1)
    one_class = np.zeros(200, int)
    assert said(clean=one_class == 0, label=one_class) == ""  # of which any share right is no better than chance
    assert "zero on 20 of 200" in said(gradient=np.where(label == 0, 0, 0.1))
    assert "exploding" in said(gradient=np.where(label == 0, np.nan, 0.1))
    assert "exploding" in said(gradient=np.where(label == 0, 1e9, 0.1))
    masked = {"fgsm": few, "pgd-20": many, "cw-20": many}
    assert "one step stronger than many" in said(points=[objections.Point(0.1, 0.02, masked)])
    assert said(points=[objections.Point(0.1, 0.001, masked)]) == ""  # 20 short steps are no match for one long one
    slow = {"fgsm": few, "pgd-5": many, "pgd-20": few, "cw-5": many, "cw-20": few}
    assert "has not converged" in said(points=[objections.Point(0.1, 0.02, slow)], steps=(5, 20))
    assert said(points=[objections.Point(0.1, 0.01, slow)], steps=(5, 20)) == ""  # 5 such steps don't reach the edge
    falls = {"fgsm": few, "pgd-20": few, "cw-20": few}
    rising = [
        objections.Point(0.1, 0.02, falls),
        objections.Point(0.2, 0.04, {"fgsm": many, "pgd-20": many, "cw-20": few}),
    ]
    assert "PGD-20 accuracy rises by 60.0 points from eps 0.1 to 0.2" in said(points=rising)
    assert said(points=rising[:1]) == ""
    assert "grey" in said(points=[objections.Point(0.5, 0.1, {"fgsm": many, "pgd-20": many, "cw-20": few})])


def test_autoattack_says_who_broke_what_leaves_no_trace_and_continues_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyautoattack = pytest.importorskip("pyautoattack")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    batch = batch_for(model, count=6, wrong=1)
    torch.manual_seed(3)
    before, trace = torch.get_rng_state(), sys.gettrace()
    images, via = autoattack.autoattack(model, batch.image, batch.label, eps=0.03, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert sys.gettrace() is trace
    assert (images - batch.image).abs().max() <= 0.03 + 1e-6
    wrong = model(images).argmax(1) != batch.label
    assert [bool(name) for name in via] == wrong.tolist()
    assert via[-1] == "clean"
    assert {"", "apgd-ce"} < set(via) <= {"", "clean", *autoattack.STANDARD}

    run = pyautoattack.AutoAttack.run_standard_evaluation
    started: list[str] = []

    def fails_at_fab(self: Any, *arguments: Any, batch_size: int) -> Any:
        started.extend(self.attacks_to_run)
        if started == ["apgd-ce", "apgd-t", "fab-t"]:
            raise KeyboardInterrupt
        return run(self, *arguments, batch_size=batch_size)

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", fails_at_fab)
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        autoattack.autoattack(model, batch.image, batch.label, eps=0.03, seed=1, state=state)
    kept = state.read_bytes()
    for broken in ({}, {"adversarial": images[:1], "broken_by": torch.zeros(1), "done": 1}):
        torch.save(broken, state)
        with pytest.raises(InputError, match="expected the state of an interrupted AutoAttack"):
            autoattack.autoattack(model, batch.image, batch.label, eps=0.03, seed=1, state=state)
    state.write_bytes(kept)
    found = autoattack.autoattack(model, batch.image, batch.label, eps=0.03, seed=1, state=state)
    assert started == ["apgd-ce", "apgd-t", "fab-t", "fab-t", "square"]
    torch.testing.assert_close(found[0], images)
    assert found[1] == via
    assert not state.exists()
    still, via = autoattack.autoattack(model, batch.image, batch.label, eps=0.0)
    assert torch.equal(still, batch.image)
    assert set(via) == {"", "clean"}


@pytest.mark.parametrize("kind", [Small, Detached])
def test_autoattack_takes_two_classes_and_models_without_gradients(kind: type[Small]) -> None:
    pytest.importorskip("pyautoattack")
    model = kind(classes=2)
    batch = batch_for(model, count=3, wrong=0)
    _, via = autoattack.autoattack(model, batch.image, batch.label, eps=0.2)
    assert set(via) <= ({"", "square"} if kind is Detached else {"", "apgd-ce", "fab-t", "square"})
    assert any(via)
    assert autoattack.parts(2) == autoattack.parts(3) == ("apgd-ce", "fab-t", "square")
    assert autoattack.parts(4) == autoattack.parts(1000) == autoattack.STANDARD


def test_autoattack_names_the_package_it_needs(model: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InputError, match=r"pip install attrib\[autoattack\]"):
        autoattack.autoattack(model, torch.rand(1, 3, 8, 8), torch.tensor([0]), eps=0.1)


def test_margin_of_the_combined_path() -> None:
    logits = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    label = torch.arange(6) % 4
    heads = (margin(logits[1], label) + margin(logits[2], label)) / 2
    torch.testing.assert_close(accuracy._combined_margin(logits, label), margin(logits[0], label) + 2 * heads)


def test_autoattack_runs_square_on_a_gated_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square needs no gradient, so what the gates hide from the gradient does not mislead it."""
    pyautoattack = pytest.importorskip("pyautoattack")
    started: list[str] = []

    def breaks_nothing(self: Any, images: Tensor, labels: Tensor, *, batch_size: int) -> tuple[Tensor, Tensor]:
        assert len(images) == len(labels) == batch_size
        started.extend(self.attacks_to_run)
        return images, labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", breaks_nothing)
    model = gated()
    batch = batch_for(model, count=3, wrong=0, size=16)
    autoattack.autoattack(model, batch.image, batch.label, eps=0.01)
    assert started == list(autoattack.STANDARD)
    assert started[-1] == "square"
