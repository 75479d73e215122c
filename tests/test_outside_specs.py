"""Weights for a factory, and models of public collections: loading, and messages if something does not fit."""

import json
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib import inference
from attrib.errors import InputError
from attrib.models.outside import Normalized

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
FACTORY = """
from torch import nn
def build():
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6), act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
        fc=nn.Linear(6, 10),
    ))
def parallel():
    return nn.DataParallel(build())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "weighed", raising=False)
    (tmp_path / "weighed.py").write_text("from collections import OrderedDict\n" + FACTORY)
    return tmp_path


def trained(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        space: dict[str, Any] = {"OrderedDict": OrderedDict}
        exec(FACTORY, space)
        model: nn.Module = space["build"]().eval()
    return model


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, Any] = {
    "bare": lambda s: s,
    "params": lambda s: {"params": s},
    "nested": lambda s: {"checkpoint": {"model": under("module.", s), "epoch": 3}},
    "own key": lambda s: {"resnet": s, "optimizer": {"state": {}, "param_groups": []}},
    "numpy": lambda s: {"model_state": s, "best": np.float32(0.5), "history": np.arange(4), "when": np.int64(3)},
    "prefixes": lambda s: under("module.model.net.", s),
    "unknown prefix": lambda s: {"state_dict": under("student.", s)},
    "without counters": lambda s: {name: t for name, t in s.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("factory", ["build", "parallel"])
def test_weights_are_loaded_into_the_factorys_module(form: Any, factory: str, folder: Path) -> None:
    model = trained()
    torch.save(form(model.state_dict()), folder / "w.pt")
    loaded = attrib.model(f"weighed:{factory}", weights="w.pt", classes=list("abcdefghij"))
    assert torch.equal(inference.logits(loaded.opened_module, IMAGES), model(IMAGES))
    assert (loaded.weights, loaded.classes) == ("w.pt", tuple("abcdefghij"))
    assert loaded.identity()["weights"] == "w.pt"


def test_an_average_of_the_weights(folder: Path) -> None:
    model, other = trained(), trained(1)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), folder / "swa.pt")
    torch.save({"state_dict": other.state_dict(), "state_dict_ema": model.state_dict()}, folder / "ema.pt")
    swa = attrib.model("weighed:build", weights="swa.pt")
    assert torch.equal(inference.logits(swa.opened_module, IMAGES), model(IMAGES))
    with pytest.warns(UserWarning, match=r"ema.pt: took state_dict_ema, a moving average of the weights, not state_d"):
        ema = attrib.model("weighed:build", weights="ema.pt")
    assert torch.equal(inference.logits(ema.opened_module, IMAGES), model(IMAGES))


def test_other_weights_beside_them(folder: Path) -> None:
    state = trained().state_dict()
    torch.save(under("model.", state) | {"criterion.weight": torch.ones(10)}, folder / "lightning.pt")
    with pytest.warns(UserWarning, match="took the weights that begin with model.; left out: criterion.weight"):
        attrib.model("weighed:build", weights="lightning.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            lambda s: {"body." + n if n != "fc.bias" else n: t for n, t in s.items()},
            r"missing: conv.weight, conv.bias, bn.weight and \d more; unexpected: body.conv.weight",
        ),
        (lambda s: s | {"fc.weight": torch.ones(100, 6)}, r"fc.weight is \(100, 6\), expected \(10, 6\)"),
        (lambda s: s | {"extra.weight": torch.ones(2)}, "unexpected: extra.weight"),
        (lambda s: {"generator": s, "critic": s}, "holds weights under several keys: generator, critic"),
        (lambda s: under("online.", s) | under("target.", s), "holds several such models, online., target."),
        (lambda _: {"epoch": 3}, "expected a checkpoint or a state dict"),
    ],
)
def test_weights_that_do_not_fit(content: Any, words: str, folder: Path) -> None:
    torch.save(content(trained().state_dict()), folder / "w.pt")
    with pytest.raises(InputError, match=words) as caught:
        attrib.model("weighed:build", weights="w.pt")
    assert str(caught.value).startswith("w.pt: ")
    assert "\n" not in str(caught.value)


def test_programs_are_refused_in_one_line(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(trained(), IMAGES), folder / "traced.pt")
    with pytest.raises(InputError, match=r"this is a TorchScript program; name a factory that returns torch.jit.load"):
        attrib.model("weighed:build", weights="traced.pt")
    torch.export.save(torch.export.export(trained(), (IMAGES,)), folder / "exported.pt2")
    with pytest.raises(InputError, match=r"this is a torch.export program"):
        attrib.model("weighed:build", weights="exported.pt2")


def test_seeds_of_an_own_network(folder: Path, run: Any) -> None:
    for seed in range(3):
        torch.save(trained(seed).state_dict(), folder / f"s{seed}.pt")
    seeds = attrib.model("weighed:build", weights=["s0.pt", "s1.pt", "s2.pt"], name="mine")
    assert [(each.label, each.seeds) for each in seeds] == [("mine/0", 3), ("mine/1", 3), ("mine/2", 3)]
    assert len({each.fingerprint for each in seeds}) == 3
    given = ("span", "--data", "glyphs", "--limit", 4, "--map", "gradient", "--json")
    done = run(*given, "--model", "mine=weighed:build", "--weights", "s0.pt,s1.pt,s2.pt")
    assert done.status == 0, done.err
    entry = json.loads(done.out)["models"][0]
    assert entry["fingerprint"] == [each.fingerprint for each in seeds]
    assert [seed["weights"] for seed in entry["seeds"]] == ["s0.pt", "s1.pt", "s2.pt"]
    for words, weights in (
        ("given twice", ["mine=s0.pt", "mine=s1.pt"]),
        ("name of a factory", ["other=s0.pt"]),
        ("mine: seeds 0 and 1 are one network", ["mine=s0.pt,s0.pt"]),
    ):
        options = [word for each in weights for word in ("--weights", each)]
        done = run(*given, "--model", "mine=weighed:build", *options)
        assert done.status == 2
        assert words in done.err
    with pytest.raises(InputError, match="weights: expected a factory"):
        attrib.model("zoo:mnist-lenet-raw", weights="s0.pt")


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for hub in ("transformers", "timm", "torchvision.models", "robustbench.utils"):
        monkeypatch.setitem(sys.modules, hub, None)
    for spec in ("hf:net", "timm:net", "torchvision:net", "robustbench:net"):
        with pytest.raises(InputError, match=rf"model {spec}: needs \w+: pip install"):
            attrib.model(spec)


def test_the_other_collections(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    asked: list[Any] = []

    def give(*given: Any, **named: Any) -> nn.Module:
        asked.append((given, named))
        print("Downloading")  # noqa: T201  # as robustbench does
        model: Any = trained()
        model.pretrained_cfg = {"label_names": [f"kind {n}" for n in range(10)]}
        return cast(nn.Module, model)

    config = {"input_size": (3, 24, 20), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    module("timm", create_model=give)
    module("timm.data", resolve_model_data_config=lambda _: config, infer_imagenet_subset=lambda _: None)
    preset = SimpleNamespace(crop_size=[24], mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": [f"kind {n}" for n in range(10)]})
    module("torchvision")
    module("torchvision.models", get_model=give, get_model_weights=lambda _: SimpleNamespace(DEFAULT=weights))
    module("robustbench")
    module("robustbench.utils", load_model=give)
    for spec, size, call in (
        ("timm:net.tag", (24, 20), (("net.tag",), {"pretrained": True})),
        ("torchvision:net", (24, 24), (("net",), {"weights": weights})),
    ):
        model = attrib.model(spec)
        assert isinstance(model.module, Normalized)
        assert model.module.size == size
        assert model.identity()["input"]["mean"] == [0.4, 0.5, 0.6]
        assert model.classes == tuple(f"kind {n}" for n in range(10))
        assert asked[-1] == call
    model = attrib.model("robustbench:cifar10/L2/Someone2020Robust")
    assert asked[-1][1] == {"model_name": "Someone2020Robust", "dataset": "cifar10", "threat_model": "L2"}
    assert (model.name, len(model.classes or ())) == ("Someone2020Robust", 10)
    attrib.model("robustbench:Someone2020Robust")
    assert asked[-1][1]["threat_model"] == "Linf"
    assert capsys.readouterr().out == ""
    module("robustbench.utils", load_model=lambda model_name, **_: {}[model_name])
    with pytest.raises(InputError, match=r"robustbench:Nobody: its collection does not know 'Nobody'"):
        attrib.model("robustbench:Nobody")


@pytest.mark.parametrize(
    ("name", "near"), [("resnet5O", "; did you mean timm:resnet50?"), ("resnet50.a1", ""), ("other", "")]
)
def test_a_collections_nearest_name(name: str, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise RuntimeError("no such model, or no network")

    names = ["resnet50", "vgg11"]
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=fail, list_models=lambda: names))
    monkeypatch.setitem(sys.modules, "timm.data", SimpleNamespace())
    with pytest.raises(InputError) as raised:
        attrib.model(f"timm:{name}")
    assert str(raised.value) == f"model timm:{name}: cannot be loaded: no such model, or no network{near}"


def test_info_of_any_file(folder: Path, run: Any) -> None:
    state = under("module.", trained().half().state_dict())
    torch.save(
        {"net": state, "epoch": 12, "acc": np.float64(93.5), "args": {"lr": 0.1}, "name": "tiny"}, folder / "o.pt"
    )
    done = run("info", "o.pt", "--json")
    assert done.status == 0, done.err
    card = json.loads(done.out)["checkpoints"][0]
    assert (card["weights at"], card["prefix"], card["epoch"], card["metrics"]) == (
        "net", "module.", {"epoch": 12}, {"acc": 93.5},
    )  # fmt: skip
    parameters = sum(parameter.numel() for parameter in trained().parameters())
    assert (card["tensors"], card["parameters"]) == (9, parameters)
    torch.save(trained().state_dict(), folder / "bare.pt")
    bare = json.loads(run("info", "bare.pt", "--json").out)["checkpoints"][0]
    assert (bare["parameters"], bare["epoch"], bare["metrics"], bare["beside"]) == (parameters, {}, {}, [])
    assert card["shapes"]["conv.weight"] == "6x3x3x3"
    assert card["types"] == ["float16", "int64"]
    assert {"net", "args", "name"} == set(card["beside"])
    assert "conv.weight" in run("info", "o.pt").out
    torch.save({"epoch": 3}, folder / "none.pt")
    done = run("info", "none.pt")
    assert done.status == 2
    assert len(done.err.strip().splitlines()) == 1
