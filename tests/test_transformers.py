"""Image classifiers of transformers: small ones with random weights, as modules and as folders of save_pretrained."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from test_token_layers import ToMap, as_it_is, by_hand, made, tokens
from torch import Tensor, nn

import attrib
from attrib import inference, maps
from attrib.errors import InputError
from attrib.models.layers import feature_layer
from attrib.models.trace import first_tensor

transformers = pytest.importorskip("transformers")

CLASSES = ("cat", "dog", "emu", "fox", "gnu")
LABEL = torch.tensor([1, 4])
VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


class Kind(NamedTuple):
    """A family: its configuration, how the layer found becomes a map, its image processor."""

    settings: dict[str, Any]
    to_map: ToMap
    processor: str
    layer: str
    size: int = 32


KINDS = {
    "ViT": Kind(VIT, tokens(1, 4, 4), "ViT", "vit.layers.1.layernorm_before"),
    "DeiT": Kind(VIT, tokens(2, 4, 4), "DeiT", "deit.layers.1.layernorm_before"),
    "Swin": Kind(
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        tokens(0, 4, 4), "ViT", "swin.layernorm",
    ),
    "ConvNext": Kind(
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, as_it_is, "ConvNext", "convnext.encoder.stages.1"
    ),
    "ResNet": Kind(STAGES | {"layer_type": "basic"}, as_it_is, "ConvNext", "resnet.encoder.stages.1"),
    "RegNet": Kind(STAGES | {"groups_width": 4}, as_it_is, "ConvNext", "regnet.encoder.stages.1"),
    "MobileNetV2": Kind(
        {"depth_multiplier": 0.25, "image_size": 64}, as_it_is, "MobileNetV2", "mobilenet_v2.conv_1x1", 64
    ),
    # With the usual weights, of std 0.02, what reaches the last layer rounds to 0.
    "EfficientNet": Kind(
        {
            "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 64,
            "initializer_range": 0.3,
        },
        as_it_is, "EfficientNet", "efficientnet.encoder.top_activation", 64,
    ),
    # Its attention maps, 5x5, are smaller than the grid of its first stage.
    "Pvt": Kind(
        {"image_size": 64, "depths": [1] * 4, "hidden_sizes": [8, 8, 8, 16], "num_attention_heads": [1, 1, 2, 2]},
        tokens(1, 2, 2), "Pvt", "pvt.encoder.block.3.0.layer_norm_1", 64,
    ),
    # Its table of positions, 7x7, is about as large as its last map.
    "Swinv2": Kind(
        {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        tokens(0, 8, 8), "ViT", "swinv2.layernorm", 64,
    ),
}  # fmt: skip
CLASS_TOKEN = ("ViT", "DeiT", "Pvt")


def network(kind: str, **changed: Any) -> Any:
    """The classifier, as transformers makes it."""
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: k for k, name in enumerate(CLASSES)}}
    config = getattr(transformers, f"{kind}Config")(num_labels=5, **names | KINDS[kind].settings | changed)
    return made(lambda: getattr(transformers, f"{kind}ForImageClassification")(config))


def images(kind: str, count: int = 2) -> Tensor:
    side = KINDS[kind].size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def saved(place: Path, kind: str = "ViT", *, processor: str | None = None, **settings: Any) -> Path:
    """A folder of save_pretrained, with an image processor that has these settings."""
    module = processor or KINDS[kind].processor
    size = KINDS[kind].size
    usual: dict[str, Any] = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    square = {"height": size, "width": size}
    if module in ("DeiT", "MobileNetV2"):
        usual["crop_size"] = square
    usual["size"] = {"shortest_edge": size} if module in ("ConvNext", "MobileNetV2") else square
    network(kind).save_pretrained(place)
    getattr(transformers, f"{module}ImageProcessor")(**usual | settings).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each family."""
    place = tmp_path_factory.mktemp("hf")
    for kind in KINDS:
        saved(place / kind, kind)
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_of_the_layer_found_is_that_of_autograd(kind: str) -> None:
    """Beside a class token it is the norm before the last attention, elsewhere what they call last_hidden_state."""
    model, image = network(kind), images(kind)
    layer = feature_layer(model, image)
    assert layer is model.get_submodule(KINDS[kind].layer)
    if kind not in CLASS_TOKEN:
        seen: list[Tensor | None] = []
        hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(first_tensor(output)))
        with torch.no_grad():
            last = model.base_model(image).last_hidden_state
        hook.remove()
        assert seen[-1] is not None
        torch.testing.assert_close(seen[-1], last)
    expected = by_hand(model, layer, image, LABEL, KINDS[kind].to_map)
    assert expected.any()
    torch.testing.assert_close(maps.cam_grid("gradcam", model, image, LABEL), expected, atol=1e-5, rtol=0)


class Logits(nn.Module):
    """What a user had to write without attrib's help."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.inner(image).logits
        return logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_needs_no_wrapper(kind: str) -> None:
    model, image = network(kind), images(kind)
    strength: dict[str, Any] = {"eps": 8 / 255, "step_size": 4 / 255, "steps": 2}
    wrapped = Logits(model)
    assert torch.equal(attrib.pgd(model, image, LABEL, **strength), attrib.pgd(wrapped, image, LABEL, **strength))
    result = attrib.Span(floor=0).run({"net": model}, (image, LABEL))
    grid = by_hand(model, feature_layer(model, image), image, LABEL, KINDS[kind].to_map)
    expected = attrib.coverage(attrib.span(maps.upsample(grid, image.shape[2:])))
    np.testing.assert_allclose(result.rows["coverage"], expected, atol=2e-3)  # a pixel or two lie at the threshold
    assert result["net"]["layer"] == KINDS[kind].layer


def test_folders_on_the_command_line(folders: Path, run: Any, tmp_path: Path) -> None:
    """All families at once; nothing but the JSON is printed, and it is what Python gives."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(10) % 5, classes=np.array(CLASSES))
    done = run("span", *(f"hf:{folders / kind}" for kind in KINDS), "--data", f"npz:{tmp_path / 'data.npz'}",
               "--floor", 0, "--json")  # fmt: skip
    assert done.status == 0
    assert all(line.startswith("attrib: warning: ") for line in done.err.splitlines())
    found = {entry["name"]: entry for entry in json.loads(done.out)["models"]}
    image, label = torch.from_numpy(pixels).movedim(3, 1) / 255, torch.arange(10) % 5
    for kind, entry in found.items():
        processor = transformers.AutoImageProcessor.from_pretrained(folders / kind)
        front = {"mean": processor.image_mean, "std": processor.image_std, "size": KINDS[kind].size}
        if kind == "EfficientNet":  # its processor divides by std twice
            front["std"] = [value**2 for value in processor.image_std]
        module = attrib.model(network(kind), **front, name=kind)
        expected = attrib.Span(floor=0).run([module], (image, label))[kind]
        assert entry["asc"] == pytest.approx(expected["asc"], abs=2e-3)
        assert (entry["layer"], entry["checkpoint"]) == (KINDS[kind].layer, f"hf:{folders / kind}")
    assert list(found) == list(KINDS)


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "no normalisation": ("ViT", {"do_normalize": False}),
    "no rescaling": ("ViT", {"do_rescale": False}),
    "-1 to 1": ("EfficientNet", {"rescale_factor": 1 / 127.5, "rescale_offset": True}),
    "std once": ("EfficientNet", {"include_top": False}),
    "a crop that is no square": ("DeiT", {"crop_size": {"height": 24, "width": 20}}),
    "no resizing": ("ViT", {"do_resize": False}),
    "cropped, then resized": ("Perceiver", {"crop_size": {"height": 40, "width": 40}}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_the_processor_does_is_done(name: str, tmp_path: Path) -> None:
    kind, settings = PROCESSORS[name]
    model = attrib.model(f"hf:{saved(tmp_path, processor=kind, **settings)}")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    front: Any = model.module
    picture = torch.randint(0, 256, (3, 50, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    size = tuple(processor(picture, return_tensors="pt")["pixel_values"].shape[2:])
    assert front.size == (None if name == "no resizing" else size)
    front.module, front.size = nn.Identity(), None
    expected = processor(picture, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    torch.testing.assert_close(front(picture[None] / 255), expected, atol=1e-5, rtol=1e-5)


def test_grey_pictures(tmp_path: Path) -> None:
    network("ViT", num_channels=1).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.3], image_std=[0.2], size=32).save_pretrained(tmp_path)
    assert attrib.model(f"hf:{tmp_path}").identity()["input"] == {"mean": [0.3], "std": [0.2], "size": (32, 32)}


def rewritten(name: str, **changed: Any) -> Callable[[Path], object]:
    """Change keys of a JSON file, or (None) remove them."""

    def write(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changed
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return write


NO_NAMES: dict[str, Callable[[Path], object]] = {
    "missing": rewritten("config.json", id2label=None, label2id=None, num_labels=5),
    "numbered": rewritten("config.json", id2label={str(k): f"LABEL_{k}" for k in range(5)}, label2id=None),
}


@pytest.mark.parametrize("form", NO_NAMES)
def test_names_of_the_classes(form: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folders / "ViT", tmp_path / "net")
    monkeypatch.chdir(tmp_path / "net")
    named = attrib.model("hf:.")
    assert (named.name, named.classes) == ("net", CLASSES)
    NO_NAMES[form](tmp_path / "net")
    assert attrib.model("hf:.").classes is None


def test_one_logit_is_two_classes_without_names(tmp_path: Path) -> None:
    config = network("ViT").config
    config.id2label, config.label2id = {0: "defect"}, {"defect": 0}
    net: Any = made(lambda: transformers.ViTForImageClassification(config))
    net.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.4] * 3, image_std=[0.2] * 3, size=32).save_pretrained(tmp_path)
    result = attrib.Span(floor=0, map="gradient").run(attrib.model(f"hf:{tmp_path}"), torch.rand(2, 3, 32, 32))
    assert result.summary["models"]


FORMATS: dict[str, dict[str, Any]] = {
    "as a feature extractor": {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
    "a fast one": {"image_processor_type": "ViTImageProcessorFast"},
    "by the type of the model": {"image_processor_type": None},
    "one number": {"size": 32},
}


@pytest.mark.parametrize("form", [*FORMATS, "nested"])
def test_formats_of_the_processors_file(form: str, folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    shutil.copytree(folders / "ViT", folder)
    if form == "nested":
        content = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": content}))
        (folder / "preprocessor_config.json").unlink()
    else:
        rewritten("preprocessor_config.json", **FORMATS[form])(folder)
    expected = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "size": (32, 32)}
    assert attrib.model(f"hf:{folder}").identity()["input"] == expected


def bert(folder: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def backbone(folder: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(folder)


def cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def flipped(folder: Path) -> None:
    transformers.MobileViTImageProcessor(size=32, crop_size=32).save_pretrained(folder)


def code_of_its_own(folder: Path) -> None:
    rewritten("config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})(folder)
    (folder / "mine.py").write_text("raise SystemExit\n")


WITHOUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda folder: (folder / "config.json").unlink(), "expected a folder of save_pretrained"),
    "text": (bert, "transformers has no classifier of images of its type, bert"),
    "no head": (backbone, "its file lacks classifier.bias, classifier.weight in the shape"),
    "another head": (
        rewritten("config.json", id2label={"0": "a", "1": "b"}), "lacks classifier.bias, classifier.weight in the shape"
    ),
    "several answers": (rewritten("config.json", problem_type="multi_label_classification"), "multi-label classifier"),
    "blue first": (flipped, "takes blue before red"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "cut off": (cut_off, "incomplete metadata"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
    "own code": (code_of_its_own, "brings code of its own"),
    "no processor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(), "its image processor cannot be used .* name mean"
    ),
    "no known processor": (
        rewritten("preprocessor_config.json", image_processor_type="Own"), "image processor cannot be used .* name mean"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WITHOUT)
def test_what_cannot_be_looked_at_is_one_line(fault: str, folders: Path, tmp_path: Path, run: Any, capsys: Any) -> None:
    break_it, words = WITHOUT[fault]
    shutil.copytree(folders / "ViT", tmp_path / "net")
    break_it(tmp_path / "net")
    capsys.readouterr()
    line = run("span", f"hf:{tmp_path / 'net'}", "--data", "glyphs", "--json").refused()
    assert len(line) < 450
    with pytest.raises(InputError, match=words):
        attrib.model(f"hf:{tmp_path / 'net'}")


def test_without_a_processor_mean_and_std_are_given(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "ViT", tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").unlink()
    model = attrib.model(f"hf:{tmp_path / 'net'}", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25], size=32)
    given = attrib.model(f"hf:{folders / 'ViT'}")
    assert model.fingerprint == given.fingerprint
    assert model.classes == CLASSES
    image = torch.rand(2, 3, 40, 40)
    expected = inference.logits(given.opened_module, image)
    assert torch.equal(inference.logits(model.opened_module, image), expected)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hf:./nothing", "no such folder"),
        ("hf:/nothing/there", "no such folder"),
        ("{ViT}", "is given as hf:"),
        ("hf:{ViT} --size 48", r"does not take .* doesn't match model .* see size"),
    ],
)
def test_specs_that_are_none(spec: str, words: str, folders: Path, run: Any) -> None:
    given = spec.format(ViT=folders / "ViT").split()
    line = run("span", *given, "--data", "glyphs", "--limit", 2, "--json").refused()
    assert re.search(words, line)


def test_without_a_network_the_disk_is_searched(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub would try for half a minute, file by file, before it looked there."""
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(folders / "ViT", tmp_path / "models--someone--net" / "snapshots" / ("0" * 40))
    (tmp_path / "models--someone--net" / "refs").mkdir()
    (tmp_path / "models--someone--net" / "refs" / "main").write_text("0" * 40)
    began = time.monotonic()
    assert attrib.model("hf:someone/net").classes == CLASSES
    with pytest.raises(InputError, match=r"couldn't connect to .* couldn't find them in the cached files$"):
        attrib.model("hf:someone/other")
    monkeypatch.chdir(folders)
    for near, words in (
        ("ViiT", r"loaded: .*; did you mean hf:ViT\?$"),
        ("./Swim", r"folder; did you mean hf:Swin\?$"),
    ):
        with pytest.raises(InputError, match=words):
            attrib.model(f"hf:{near}")
    assert time.monotonic() - began < 10
