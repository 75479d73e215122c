import dataclasses
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.files import atomic
from attrib.models.architectures import build
from attrib.models.checkpoint import FORMAT_VERSION, Checkpoint, check_data, load, read, save, to_model
from attrib.models.classifier import Classifier, Shape
from attrib.models.gated import GatedClassifier
from attrib.models.weights import content_of, state_dict

IMAGES = torch.rand(4, 3, 16, 16)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build("lenet", num_classes=6, input_shape=(3, 16, 16), mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1]).eval()


def describe(model: Classifier, arch: str = "lenet", input_shape: Shape = (3, 16, 16)) -> Checkpoint:
    return Checkpoint(
        arch=arch,
        arch_kwargs={"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()},
        num_classes=model.fc.out_features,
        input_shape=input_shape,
        data="glyphs",
        method="pgd-at",
        hyper={"eps": 8 / 255, "steps": 10, "milestones": [1, 2], "seed": None, "mixed": False},
        epoch=3,
        metrics={"clean": 0.97},
        weights=model.state_dict(),
    )


@pytest.fixture(scope="module")
def ckpt(model: Classifier) -> Checkpoint:
    return describe(model)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_saved_and_loaded(model: Classifier, ckpt: Checkpoint, path: Path) -> None:
    save(ckpt, path)
    state = torch.get_rng_state()
    loaded, said = load(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert not any(module.training for module in loaded.modules())
    for item in dataclasses.fields(Checkpoint):
        if item.name != "weights":
            assert getattr(said, item.name) == getattr(ckpt, item.name), item.name
    assert said.versions.keys() == {"python", "torch", "attrib"}
    assert said.fingerprint == ckpt.fingerprint


@pytest.mark.parametrize("arch", ["resnet9", "resnet32"])
def test_saved_and_loaded_with_batch_norm(arch: str, path: Path) -> None:
    images = IMAGES[:, :, :8, :8]
    model = build(arch, num_classes=2, input_shape=(3, 8, 8))
    model(images)  # moves the running statistics
    model.eval()
    save(describe(model, arch, (3, 8, 8)), path)
    assert torch.equal(load(path)[0](images), model(images))


@pytest.mark.parametrize("arch", ["resnet32", "preactresnet18"])
def test_a_gated_model_saved_and_loaded(arch: str, path: Path) -> None:
    model = build(arch, num_classes=3, input_shape=(3, 16, 16), gated=True)
    model(IMAGES)
    model.eval()
    ckpt = describe(model, arch)
    ckpt.arch_kwargs["gated"] = True
    save(ckpt, path)
    loaded, said = load(path)
    assert isinstance(loaded, GatedClassifier)
    assert isinstance(model, GatedClassifier)
    assert said.arch_kwargs == ckpt.arch_kwargs
    assert said.fingerprint == ckpt.fingerprint
    assert torch.equal(loaded.all_logits(IMAGES), model.all_logits(IMAGES))
    bare = path.with_name("bare.pt")
    torch.save(model.state_dict(), bare)
    assert torch.equal(load(bare, arch=arch, input_shape=(3, 16, 16))[0](IMAGES), model(IMAGES))


def test_the_file_is_plain(ckpt: Checkpoint, path: Path) -> None:
    save(ckpt, path)
    content = torch.load(path, weights_only=True)
    assert type(content) is dict
    assert type(content["weights"]) is dict
    assert content["format_version"] == FORMAT_VERSION


def test_the_file_holds_no_more_than_the_weights(ckpt: Checkpoint, path: Path) -> None:
    slices = {name: torch.zeros(100, *tensor.shape)[7] for name, tensor in ckpt.weights.items()}
    slices["stages.1.0.weight"] = slices["stages.1.0.weight"].contiguous(memory_format=torch.channels_last)
    save(dataclasses.replace(ckpt, weights=slices), path)
    size = sum(tensor.nbytes for tensor in ckpt.weights.values())
    assert path.stat().st_size < size + 20_000
    assert all(tensor.is_contiguous() for tensor in read(path).weights.values())


def test_the_model_does_not_share_the_checkpoints_memory(ckpt: Checkpoint) -> None:
    before = ckpt.weights["fc.bias"].clone()
    with torch.no_grad():
        to_model(ckpt).fc.bias.add_(1)
    assert torch.equal(ckpt.weights["fc.bias"], before)


def test_fingerprint(ckpt: Checkpoint) -> None:
    def of(weights: dict[str, Tensor]) -> str:
        return dataclasses.replace(ckpt, weights=weights).fingerprint

    print_ = ckpt.fingerprint
    assert len(print_) == 12
    assert int(print_, 16) >= 0
    assert of(dict(reversed(ckpt.weights.items()))) == print_
    bias = ckpt.weights["fc.bias"]
    for other in (bias + 1e-6, bias[None], bias.double()):
        assert of({**ckpt.weights, "fc.bias": other}) != print_


@pytest.mark.parametrize("value", [np.float64(0.5), Path("x"), torch.tensor(1.0), {1, 2}, {"a": [object()]}])
def test_values_that_could_not_be_read_back(ckpt: Checkpoint, path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"hyper.*plain values only"):
        save(dataclasses.replace(ckpt, hyper={"lr": value}), path)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_file(ckpt: Checkpoint, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(ckpt, path)
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match=r"cannot write .*model\.pt: No space left"):
        save(dataclasses.replace(ckpt, epoch=4), path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["model.pt"]


def test_an_interrupted_write_leaves_nothing(path: Path) -> None:
    def write_half() -> None:
        with atomic(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(path.parent) == []


def test_unwritable_places(ckpt: Checkpoint, path: Path) -> None:
    path.write_bytes(b"")
    for place in (path / "model.pt", path.parent / "missing" / "model.pt", path.parent):
        with pytest.raises(InputError, match="cannot write"):
            save(ckpt, place)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"net": weights, "acc": 93.1},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        lambda weights: {name: nn.Parameter(t) if t.requires_grad else t for name, t in weights.items()},
    ],
)
def test_bare_weights(model: Classifier, path: Path, wrap: Callable[[dict[str, Tensor]], object]) -> None:
    torch.save(wrap(model.state_dict()), path)
    loaded, said = load(path, arch="lenet")
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert (said.num_classes, said.input_shape, said.data, said.method) == (
        6,
        (3, 16, 16),
        "unknown",
        "unknown",
    )
    assert said.arch_kwargs["std"] == pytest.approx([0.2, 0.3, 0.1])


def test_bare_weights_of_a_residual_network(path: Path) -> None:
    model = build("resnet32", num_classes=100, input_shape=(1, 28, 28)).eval()
    torch.save(model.state_dict(), path)
    assert read(path, arch="resnet32").input_shape == (1, 32, 32)
    loaded, said = load(path, arch="resnet32", input_shape=(1, 28, 28))
    assert (said.num_classes, said.input_shape) == (100, (1, 28, 28))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("side", [16, 28, 32, 64])
def test_the_size_of_a_bare_lenet(side: int, path: Path) -> None:
    torch.save(build("lenet", num_classes=2, input_shape=(1, side, side)).state_dict(), path)
    assert read(path, arch="lenet").input_shape == (1, side, side)


def test_bare_weights_without_normalisation(model: Classifier, path: Path) -> None:
    torch.save({name: t for name, t in model.state_dict().items() if name not in ("mean", "std")}, path)
    with pytest.raises(InputError, match=r"holds no mean to normalise with; give it with mean= \(--mean\)"):
        load(path, arch="lenet")
    loaded, _ = load(path, arch="lenet", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1])
    assert torch.equal(loaded(IMAGES), model(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back_as_float32(model: Classifier, path: Path, dtype: torch.dtype) -> None:
    torch.save({name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, path)
    loaded, said = load(path, arch="lenet")
    assert {tensor.dtype for tensor in said.weights.values()} == {torch.float32}
    torch.testing.assert_close(loaded(IMAGES), model(IMAGES), atol=0.2, rtol=0.1)


def test_legacy_file_format(model: Classifier, path: Path) -> None:
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load(path, arch="lenet")[0](IMAGES), model(IMAGES))


def test_numbers_that_are_no_float32_are_named(tmp_path: Path) -> None:
    """Two of 4 bits in a byte."""
    header = json.dumps({"fc.weight": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "four.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(InputError, match=r"fc.weight is torch.float4|not a safetensors file"):  # of an older torch
        state_dict(content_of(path))


def test_safetensors(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    assert torch.equal(load(path, arch="lenet")[0](IMAGES), model(IMAGES))
    # A header whose length, 0x3C20, begins like a page: " <".
    header, content = path.read_bytes()[8:].split(b"}}", 1)
    path.write_bytes((0x3C20).to_bytes(8, "little") + (header + b"}}").ljust(0x3C20) + content.lstrip(b" "))
    assert torch.equal(load(path, arch="lenet")[0](IMAGES), model(IMAGES))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        load(path, arch="lenet")


class Trap:
    """Unpickling it touches a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.sprung}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_code_in_a_file_is_not_run(form: str, protocol: int, path: Path) -> None:
    sprung = path.with_name("sprung")
    content = {"format_version": 1, "weights": Trap(sprung)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    if protocol == 2:
        assert "refused: it needs posix.system, which could run code" in str(caught.value)
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap itself works


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html>Please log in</html>", "this is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "this is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "this is a PNG image"),
        (b"\x1f\x8b" + bytes(100), "this is a gzip archive"),
        (b"epoch,loss\n1,2.3\n", r"expected a PyTorch or safetensors file, this starts with b'epoch,lo'"),
        (b"\x80\x02garbage", "not written by torch.save|refused"),
        (b"PK\x03\x04" + bytes(100), "truncated; download or copy it again"),
        (pickle.dumps([1, 2], protocol=2), "not written by torch.save|refused"),
    ],
)
def test_files_of_another_kind(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(ckpt: Checkpoint, path: Path, share: float, zipped: bool) -> None:
    torch.save(ckpt.weights, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"truncated|refused") as caught:
        load(path, arch="lenet")
    assert "\n" not in str(caught.value)


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a folder"):
        load(tmp_path)
    with pytest.raises(InputError, match="expected a checkpoint file, found nothing"):
        load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("content", "arch", "message"),
    [
        (torch.zeros(3), None, "expected a checkpoint or a state dict, this holds a Tensor"),
        ([torch.zeros(3)], None, "this holds a list"),
        ({}, "lenet", "holds no weights"),
        ({"epoch": 3, "loss": 0.1}, "lenet", r"names to tensors\), found 'epoch' \(int\), 'loss' \(float\)"),
        (
            {"w": torch.zeros(3)},
            None,
            r"holds only weights; name their architecture with arch= \(--arch\): lenet, resnet9",
        ),
        ({"w": torch.zeros(3)}, "vgg", "arch: expected one of lenet.*got 'vgg'"),
        ({"w": torch.zeros(3)}, "lenet", "weights don't fit lenet: no fc.weight with 2 dimensions; found: w"),
        ({"w": torch.zeros(2).to_sparse()}, "lenet", "expected dense tensors with values, w is not"),
        ({"w": torch.tensor([1.0, torch.nan])}, "lenet", "w holds NaN or infinity"),
    ],
)
def test_contents_of_another_kind(content: object, arch: str | None, message: str, path: Path) -> None:
    torch.save(content, path)
    with pytest.raises(InputError, match=message) as caught:
        load(path, arch=arch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": FORMAT_VERSION + 1},
            "checkpoint format 2; this attrib reads up to 1: update attrib",
        ),
        ({"format_version": "new"}, "checkpoint format 'new'"),
        ({"arch": "vgg"}, "arch: expected one of lenet, .*got 'vgg'"),
        (
            {"arch": "resnet32"},
            r"don't fit resnet32 .*; missing: .* more; unexpected: .*; of another shape: .*",
        ),
        ({"arch": 3}, "arch: expected str, got 3"),
        ({"hyper": torch.zeros(9, 9)}, "hyper: expected dict, got tensor"),
        ({"weights": {"a\nb": torch.zeros(2)}}, "unexpected: a b"),
        ({"num_classes": 7}, r"fc.weight is \(6, 500\), expected \(7, 500\)"),
        ({"input_shape": (3, 28, 28)}, r"3x28x28 input; of another shape: pool.2.weight is \(500, 50\)"),
        ({"input_shape": (3, 28)}, r"input_shape: expected \(channels, height, width\)"),
        ({"input_shape": "big"}, r"input_shape: expected \(channels, height, width\)"),
        ({"arch_kwargs": {"mean": "x"}}, "expected mean to be a list of numbers"),
        ({"arch_kwargs": {"gate": [1.0]}}, "expected mean, std and gated, got also gate"),
        ({"arch_kwargs": {"gated": 1}}, "expected gated to be true or false, got 1"),
        ({"arch_kwargs": {"gated": True}}, "arch: expected one of resnet8, .*, got 'lenet'"),
        (
            {"arch": "resnet32", "arch_kwargs": {"gated": True}},
            r"don't fit gated resnet32 .*; missing: .*; unexpected: .*",
        ),
        ({"weights": {}}, "holds no weights"),
        ({"weights": {"w": 3}}, "names to tensors"),
        ({"weights": [1]}, "weights: expected dict"),
    ],
)
def test_checkpoints_that_do_not_fit(ckpt: Checkpoint, path: Path, change: dict[str, object], message: str) -> None:
    content = {item.name: getattr(ckpt, item.name) for item in dataclasses.fields(ckpt)}
    torch.save(content | change, path)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_fields(path: Path) -> None:
    torch.save({"format_version": 1, "arch": "lenet"}, path)
    with pytest.raises(InputError, match="missing: arch_kwargs, num_classes, input_shape and 7 more"):
        read(path)


def test_what_is_given_must_agree(ckpt: Checkpoint, path: Path) -> None:
    save(ckpt, path)
    read(path, arch="lenet", input_shape=(3, 16, 16), mean=ckpt.arch_kwargs["mean"])
    with pytest.raises(InputError, match="arch: resnet9 was given, but the checkpoint says lenet"):
        read(path, arch="resnet9")
    with pytest.raises(InputError, match=r"std: .* was given, but the checkpoint says"):
        read(path, std=(1.0, 1.0, 1.0))


def test_more_fields_are_ignored(ckpt: Checkpoint, path: Path) -> None:
    """So that a training run's file can hold what resuming needs beside the checkpoint."""
    content = {item.name: getattr(ckpt, item.name) for item in dataclasses.fields(ckpt)}
    torch.save({**content, "optimizer": {"state": {}}}, path)
    assert read(path).fingerprint == ckpt.fingerprint


@pytest.mark.parametrize(
    ("classes", "shape", "message"),
    [
        (6, (1, 16, 16), r"images are grey \(1 channel\), the checkpoint .* expects colour \(3 channels\)"),
        (6, (4, 16, 16), "images are of 4 channels"),
        (6, (3, 28, 28), r"images are 28x28 pixels, .*lenet, trained on glyphs.* expects 16x16"),
        (10, (3, 16, 16), "data: has 10 classes, .* has 6"),
    ],
)
def test_data_of_another_shape(ckpt: Checkpoint, classes: int, shape: Shape, message: str) -> None:
    check_data(ckpt, classes=6, shape=(3, 16, 16))
    with pytest.raises(InputError, match=message):
        check_data(ckpt, classes=classes, shape=shape)


@pytest.mark.parametrize("spec", ["hf:my-vit", "timm:resnet50", "my_code:build", torch.nn.Identity(), len])
def test_what_is_no_checkpoint_is_for_attrib_model(spec: Any) -> None:
    with pytest.raises(InputError, match=r"^load: expected a checkpoint's path or zoo:NAME, got .*attrib.model\(...\)"):
        load(spec)
