"""The caches of the GPU engines, tested on the CPU: the same buffers and copies, without capture."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import attrib
from attrib.data import Batch, Dataset
from attrib.errors import InputError
from attrib.models.architectures import build
from attrib.models.gated import GatedClassifier, combined_loss
from train import engine, graph
from train.attack import Ascent, eager_ascent, pgd_attack
from train.awp import once, perturbed
from train.config import Config, read_recipe
from train.graph import GraphedAscent
from train.methods import loss_of

STEPS = 3
ROUNDS = 3


def repeat(work: Callable[[], object]) -> Callable[[], object]:
    """In place of a capture: the same work on the same buffers."""
    return work


def batches(data: Dataset) -> list[Batch]:
    return [
        batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last)) for batch in data.batches(8)
    ]


def trained(recipe: str, arch: str, ascent: Ascent, *, watch: Callable[[Tensor], object]) -> None:
    """Train for some steps, as train.epoch does, with a growing eps; ``watch`` sees every perturbation."""
    options = {"data": "glyphs", "arch": arch} | read_recipe(Path(recipe))
    config = Config(**options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(arch, num_classes=10, input_shape=(3, 32, 32), gated=config.gated)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = attrib.dataset("glyphs", split="train", limit=8 * ROUNDS)
    for number, batch in enumerate(batches(data), start=1):
        attack = once(
            pgd_attack(eps=0.01 * number, step_size=0.005 * number, steps=STEPS, seed=0, epoch=1, precision="fp32",
                       ascent=ascent)
        )  # fmt: skip

        def loss(batch: Batch = batch, attack: object = attack) -> Tensor:
            method = loss_of(config, progress=0.9, generator=torch.Generator().manual_seed(0))
            value: Tensor = method(model, batch, attack=attack)
            return value

        optimizer.zero_grad()
        with perturbed(model, loss, gamma=0.005):
            loss().backward()
        optimizer.step()
        average.update_parameters(model)
        watch(attack(model, batch) - batch.image)


@pytest.mark.parametrize(("recipe", "arch"), [
    ("pgd-at", "lenet"), ("pgd-at", "resnet32"), ("trades", "lenet"), ("again", "resnet32"), ("again-trades", "lenet"),
])  # fmt: skip
def test_recorded_attacks_are_the_eager_ones(recipe: str, arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After optimizer steps, under AWP, with a growing eps and TRADES' changing target: the very same pixels."""
    recorded: list[int] = []

    def record(work: Callable[[], object]) -> Callable[[], object]:
        recorded.append(1)
        return work

    eager: list[Tensor] = []
    replayed: list[Tensor] = []
    trained(recipe, arch, eager_ascent, watch=eager.append)
    trained(recipe, arch, GraphedAscent(record), watch=replayed.append)
    assert len(eager) == ROUNDS
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    assert recorded == [1]
    assert not capsys.readouterr().err
    assert [float(moved.abs().max()) for moved in eager] == pytest.approx([0.01, 0.02, 0.03], abs=1e-6)


def test_a_recorded_attack_does_not_depend_on_what_was_recorded() -> None:
    """Every input goes through a buffer: the answer to a batch is the same whatever batch was first."""
    data = batches(attrib.dataset("glyphs", limit=16))
    model = build("lenet", num_classes=10, input_shape=(3, 32, 32))
    attack = pgd_attack(eps=0.1, step_size=0.05, steps=2, seed=0, epoch=1, precision="fp32",
                        ascent=GraphedAscent(repeat))  # fmt: skip
    first, second = (attack(model, batch) for batch in data)
    kept = first.clone()
    again = attack(model, data[0])
    assert torch.equal(again, first)
    assert torch.equal(first, kept)  # the answer is no view of the buffer
    assert not torch.equal(first, second)


def test_a_shape_or_objective_of_its_own_is_recorded_apart() -> None:
    recorded: list[int] = []

    def record(work: Callable[[], object]) -> Callable[[], object]:
        recorded.append(1)
        return work

    batch = batches(attrib.dataset("glyphs", limit=8))[0]
    model = build("resnet32", num_classes=10, input_shape=(3, 32, 32), gated=True)
    attack = pgd_attack(eps=0.1, step_size=0.05, steps=1, seed=0, epoch=1, precision="fp32",
                        ascent=GraphedAscent(record))  # fmt: skip
    small = Batch(batch.image[:4], batch.label[:4], batch.index[:4], None)
    for _ in range(2):
        attack(model, batch)
        attack(model, small)
        attack(model, batch, forward=GatedClassifier.all_logits, objective=combined_loss)
    assert len(recorded) == 3


def test_where_the_capture_fails_the_attack_is_eager(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    check_eager(GraphedAscent(fail), capsys, "operation not permitted when stream is capturing")


def test_where_the_images_differ_the_attack_is_eager(capsys: pytest.CaptureFixture[str]) -> None:
    def lose(_: Callable[[], object]) -> Callable[[], object]:
        return lambda: None

    check_eager(GraphedAscent(lose), capsys, "of the pixels differ")


def check_eager(ascent: Ascent, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    batch = batches(attrib.dataset("glyphs", limit=8))[0]
    model = build("lenet", num_classes=10, input_shape=(3, 32, 32))
    settings = {"eps": 0.1, "step_size": 0.05, "steps": 2, "seed": 0, "epoch": 1}
    expected = pgd_attack(**settings, precision="fp32")(model, batch)  # type: ignore[arg-type]
    for _ in range(2):
        found = pgd_attack(**settings, precision="fp32", ascent=ascent)(model, batch)  # type: ignore[arg-type]
        assert torch.equal(found, expected)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error


@pytest.mark.parametrize(("recipe", "arch"), [("pgd-at", "lenet"), ("again", "resnet32")])
def test_the_compiled_attack_is_the_eager_one(recipe: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through dynamo, one graph for every copy and forward pass; the code that inductor would make is left out."""
    compiled = []
    compile = torch.compile

    def watched(forward: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        compiled.append(1)
        made: Callable[..., Tensor] = compile(forward, dynamic=dynamic, backend="eager", fullgraph=True)
        return made

    monkeypatch.setattr(torch, "compile", watched)
    eager: list[Tensor] = []
    found: list[Tensor] = []
    trained(recipe, arch, eager_ascent, watch=eager.append)
    trained(recipe, arch, engine.CompiledAscent(), watch=found.append)
    for a, b in zip(eager, found, strict=True):
        torch.testing.assert_close(a, b)
    assert compiled == [1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
def test_stages_are_compiled_for_one_shape_and_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    compile, seen = torch.compile, []

    def watched(forward: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        def backend(module: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Tensor]:
            seen.append([size for tensor in example for size in tensor.shape])
            return module.forward

        made: Callable[..., Tensor] = compile(forward, dynamic=dynamic, backend=backend)
        return made

    monkeypatch.setattr(torch, "compile", watched)
    model = build("resnet32", num_classes=10, input_shape=(3, 16, 16))
    image = torch.rand(4, 3, 16, 16)
    before = torch.backends.cudnn.benchmark
    with engine.running(model, "compiled", torch.device("cpu")):
        for _ in range(2):
            model.train()(image).sum().backward()
        with engine.uncompiled("compiled"):
            model.eval()(torch.rand(7, 3, 16, 16))
    assert len(seen) == len(model.stages)
    assert all(isinstance(size, int) for sizes in seen for size in sizes)
    assert not any("forward" in vars(stage) for stage in model.stages)
    assert torch.backends.cudnn.benchmark == before


def test_engines_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_compile_error", lambda _: None)
    cpu = torch.device("cpu")
    assert engine.resolve("auto", cpu) == engine.resolve("eager", cpu) == "eager"
    with pytest.raises(InputError, match="--engine graph: expected a GPU"):
        engine.resolve("graph", cpu)
    assert [engine.resolve(name, torch.device("cuda")) for name in engine.ENGINES] == [
        "compiled", "eager", "compiled", "graph",
    ]  # fmt: skip
    assert engine.ascent_of("eager") is eager_ascent
    assert isinstance(engine.ascent_of("graph"), graph.GraphedAscent)


def test_without_a_compiler_training_is_eager(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(*_: object, **__: object) -> object:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    assert engine.resolve("auto", torch.device("cuda")) == "eager"
    assert "uncompiled: torch.compile fails here (" in (error := capsys.readouterr().err)
    assert "Failed to find C compiler." in error
    assert error.count("\n") == 1
