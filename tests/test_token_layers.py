"""The layer of a map in networks with tokens or channels last, in the layouts of timm, torchvision and transformers."""

from collections.abc import Callable
from typing import Any, cast

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attrib
from attrib import maps
from attrib.errors import InputError
from attrib.models.layers import feature_layer, layout_of, named
from attrib.models.outside import Normalized, bare

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([1, 4])
ToMap = Callable[[Tensor], Tensor]


def tokens(prefix: int, height: int, width: int) -> ToMap:
    """Token by token, into its place."""

    def to_map(output: Tensor) -> Tensor:
        rows = [output[:, prefix + row * width : prefix + (row + 1) * width] for row in range(height)]
        return torch.stack(rows, 1).permute(0, 3, 1, 2)

    return to_map


def channels_last(output: Tensor) -> Tensor:
    return output.movedim(-1, 1)


def as_it_is(output: Tensor) -> Tensor:
    return output


def by_hand(model: nn.Module, layer: nn.Module, image: Tensor, label: Tensor, to_map: ToMap, call: int = -1) -> Tensor:
    """Grad-CAM (N,h,w), image by image, with nothing but autograd."""
    found = []
    for x, y in zip(image, label.tolist(), strict=True):
        outputs: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any, kept: list[Tensor] = outputs) -> None:
            kept.append(output if isinstance(output, Tensor) else output[0])

        hook = layer.register_forward_hook(keep)
        answer = model(x[None].clone().requires_grad_())
        logits = getattr(answer, "logits", answer)
        hook.remove()
        (gradient,) = torch.autograd.grad(logits[0, y], outputs[call])
        activation, gradient = to_map(outputs[call])[0], to_map(gradient)[0]
        found.append(sum((gradient[c].mean() * activation[c] for c in range(len(activation))), torch.zeros(())).relu())
    return torch.stack(found).detach()


class Attention(nn.Module):
    """As timm's: one projection, and norms of queries and keys, which give (N,heads,T,d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm, self.attn_drop = nn.Identity(), nn.Identity(), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((self.q_norm(q) @ self.k_norm(k).transpose(2, 3)).softmax(-1))
        attended: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    def __init__(self, width: int, *, as_tuple: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.as_tuple = as_tuple

    def forward(self, x: Tensor) -> Any:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return (x,) if self.as_tuple else x


class Vit(nn.Module):
    """Patches by a convolution, prefix tokens, blocks, a norm; classified by the first token or the mean of patches."""

    def __init__(self, *, prefix: int = 1, pool: str = "token", as_tuple: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.prefix, self.pool = nn.Parameter(torch.randn(1, prefix, 8)), pool
        self.position = nn.Parameter(torch.randn(1, prefix + 24, 8))
        self.blocks = nn.ModuleList(Block(8, as_tuple=as_tuple) for _ in range(2))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        x = self.norm(x)
        count = self.prefix.shape[1]
        logits: Tensor = self.head(x[:, 0] if self.pool == "token" else x[:, count:].mean(1))
        return logits


class Unfolded(nn.Module):
    """Patches by a linear layer, so that no convolution says how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(48, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.block, self.norm, self.head = Block(8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(F.unfold(x, 4, stride=4).transpose(1, 2))
        x = self.block(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


class Swin(nn.Module):
    """Windows, merged patches; tokens as in transformers, (N,h,w,C) as in timm, permuted at the end in torchvision."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 6, 2, stride=2)
        self.first, self.reduction, self.second = Block(6), nn.Linear(24, 12), Block(12)
        self.norm, self.head, self.form = nn.LayerNorm(12), nn.Linear(12, 5), form
        self.permute = nn.Flatten(0, 0) if form == "permuted" else None

    def windows(self, block: nn.Module, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        inside = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        seen: Tensor = block(inside)
        return seen.reshape(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h, w, c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.windows(self.first, self.patch_embed(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        if self.form == "tokens":
            shape = x.shape[:3]
            x = self.reduction(x.flatten(1, 2)).unflatten(1, shape[1:])
            x = self.norm(self.windows(self.second, x).flatten(1, 2)).mean(1)
        else:
            x = self.norm(self.windows(self.second, self.reduction(x)))
            x = self.permute(x.permute(0, 3, 1, 2)).mean((2, 3)) if self.permute else x.mean((1, 2))
        logits: Tensor = self.head(x)
        return logits


class ConvNextBlock(nn.Module):
    """Channels last inside, first outside."""

    def __init__(self) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.LayerNorm(6)
        self.pwconv1, self.pwconv2 = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        return x + inner.permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    stages = nn.Sequential(ConvNextBlock(), ConvNextBlock())
    return nn.Sequential(nn.Conv2d(3, 6, 4, 4), stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6),
                         nn.Linear(6, 5))  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], str, ToMap]] = {
    "class token": (Vit, "blocks.1.norm1", tokens(1, 4, 6)),
    "distillation token": (lambda: Vit(prefix=2), "blocks.1.norm1", tokens(2, 4, 6)),
    "registers": (lambda: Vit(prefix=5, as_tuple=True), "blocks.1.norm1", tokens(5, 4, 6)),
    "mean of patches": (lambda: Vit(pool="mean"), "norm", tokens(1, 4, 6)),
    "mean of patches, no norm": (
        lambda: Vit(prefix=0, pool="mean", as_tuple=True, norm=False), "blocks.1", tokens(0, 4, 6),
    ),
    "unfolded": (Unfolded, "block.norm1", tokens(1, 4, 6)),
    "swin, tokens": (lambda: Swin("tokens"), "norm", tokens(0, 4, 6)),
    "swin, channels last": (lambda: Swin("last"), "norm", channels_last),
    "swin, permuted": (lambda: Swin("permuted"), "permute", as_it_is),
    "convnext": (convnext, "1", as_it_is),
}  # fmt: skip


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


class Scores(nn.Module):
    """A model that names its answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.model(x)}


def test_a_named_answer_says_what_depends_on_the_patches_too() -> None:
    model = made(Vit)
    found = maps.cam_grid("gradcam", Scores(model), IMAGE, LABEL)
    torch.testing.assert_close(found, maps.cam_grid("gradcam", model, IMAGE, LABEL))
    assert found.any()


@pytest.mark.parametrize("kind", MODELS)
def test_the_last_feature_map_is_found_and_explained(kind: str) -> None:
    build, name, to_map = MODELS[kind]
    model = made(build)
    layer = feature_layer(model, IMAGE)
    assert layer is model.get_submodule(name)
    expected = by_hand(model, layer, IMAGE, LABEL, to_map)
    assert expected.amax() > 0
    torch.testing.assert_close(maps.cam_grid("gradcam", model, IMAGE, LABEL), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.cam_grid("gradcam", model, IMAGE, LABEL, layer=name), expected, atol=1e-5, rtol=0)


class OneActivation(nn.Module):
    """One activation for everything: after convolutions, in a squeeze-and-excite head, after pooling, in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.act, self.pool = nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        scale = self.excite(self.act(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = self.act(self.conv2(x * scale))
        logits: Tensor = self.head(self.act(self.hidden(self.act(self.pool(x)).flatten(1))))
        return logits


def test_of_a_module_that_runs_several_times_the_last_map_is_taken() -> None:
    """The third of the six calls: after it come those of vectors, before it one of the same shape."""
    model = made(OneActivation)
    layer = feature_layer(model, IMAGE)
    assert layer is model.act
    assert layout_of(model, layer, IMAGE).grid == (8, 12)
    expected = by_hand(model, layer, IMAGE, LABEL, as_it_is, call=2)
    torch.testing.assert_close(maps.cam_grid("gradcam", model, IMAGE, LABEL), expected, atol=1e-5, rtol=0)
    assert expected.amax() > 0


def compiled(model: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(model, backend="eager"))


@pytest.mark.parametrize("wrap", [
    nn.DataParallel,
    compiled,
    lambda model: Normalized(compiled(nn.DataParallel(model)), [0.0] * 3, [1.0] * 3),
], ids=["DataParallel", "compiled", "both, normalized"])  # fmt: skip
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = made(OneActivation)
    wrapped = wrap(model)
    assert feature_layer(wrapped, IMAGE) is model.act
    assert named(wrapped, "conv2") is model.conv2
    assert bare(wrapped) is bare(wrapped)
    for layer in (None, "conv2", "_orig_mod.conv2", model.conv2):
        given = None if layer is None else model.conv2
        expected = attrib.gradcam(model, IMAGE, LABEL, layer=given)
        torch.testing.assert_close(attrib.gradcam(wrapped, IMAGE, LABEL, layer=layer), expected)
    torch.testing.assert_close(attrib.gradient(wrapped, IMAGE, LABEL), attrib.gradient(model, IMAGE, LABEL))
    contribution = attrib.contribution(wrapped, IMAGE, LABEL, fc="head")
    torch.testing.assert_close(contribution, attrib.contribution(model, IMAGE, LABEL))


def test_a_function_says_what_is_stranger() -> None:
    """Without the function: two tokens too many behind those of the image count as standing before them."""
    model = made(lambda: Vit(prefix=2))
    assert isinstance(model, Vit)

    def reshape(output: Tensor) -> Tensor:
        return tokens(0, 4, 6)(output[:, :24])

    expected = by_hand(model, model.blocks[0], IMAGE, LABEL, reshape)
    found = maps.cam_grid("gradcam", model, IMAGE, LABEL, layer="blocks.0", reshape=reshape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"reshape: expected it to give a feature map \(2,C,h,w\), got \(2, 26, 8\)"):
        attrib.gradcam(model, IMAGE, LABEL, layer="blocks.0", reshape=as_it_is)
    with pytest.raises(InputError, match=r"layer: expected .* got .* \(N, 5\); name one before, or say with reshape="):
        attrib.gradcam(model, IMAGE, LABEL, layer="head")


class Mean(nn.Module):
    """The mean of tokens, which run as (T,N,C) where the sequence comes first, else as (N,T,C)."""

    def __init__(self, *, sequence_first: bool) -> None:
        super().__init__()
        self.patch_embed, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 5)
        self.order = (2, 0, 1) if sequence_first else (0, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.patch_embed(x).flatten(2).permute(self.order)).tanh()
        logits: Tensor = self.head(normed.mean(self.order.index(2)))
        return logits


def from_sequence(output: Tensor) -> Tensor:
    return tokens(0, 4, 6)(output.transpose(0, 1))


@pytest.mark.parametrize("analysis", [
    attrib.Span(attack=attrib.Attack("fgsm")), attrib.Span(map="gradient", floor=0), attrib.Maps(), attrib.Checks(),
], ids=["span", "another map", "maps", "check"])  # fmt: skip
def test_the_function_reaches_every_analysis(analysis: attrib.Span | attrib.Maps | attrib.Checks) -> None:
    """As where the same network has its tokens in the order that needs no function."""
    images, labels = torch.rand(8, 3, 16, 24, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 5
    strange, known = made(lambda: Mean(sequence_first=True)), made(lambda: Mean(sequence_first=False))
    with pytest.raises(InputError, match=r"Mean has no feature map .* name the layer to look at with layer="):
        attrib.gradcam(strange, images, labels)
    told = attrib.model(strange, layer="norm", reshape=from_sequence, name="net")
    found, expected = (analysis.run({"net": model}, (images, labels)) for model in (told, known))
    pd.testing.assert_frame_equal(found.rows, expected.rows)
    pd.testing.assert_frame_equal(found.table.drop(columns="reshape"), expected.table)
    assert told.identity()["reshape"] == "test_token_layers.from_sequence"
    assert told.key() != attrib.model(strange, layer="norm", name="net").key()
    with pytest.raises(InputError, match=r"reshape: expected a function of the layer's output to .*, got 'map'"):
        attrib.gradcam(strange, images, labels, layer="norm", reshape=cast(ToMap, "map"))


def test_names_that_fit_are_listed() -> None:
    model = made(Vit)
    with pytest.raises(
        InputError, match=r"Vit has no 'blocks.1.norm3'; maps can look at: .*blocks\.1\.norm1"
    ) as caught:
        attrib.gradcam(model, IMAGE, LABEL, layer="blocks.1.norm3")
    assert "qkv" not in str(caught.value)
    # Maps of later layers are empty: the logits read the class token alone.
    with pytest.raises(InputError, match="maps can look at: ") as caught:
        attrib.gradcam(model, IMAGE, LABEL, layer="nope")
    (last,) = (name for name, module in model.named_modules() if module is attrib.locate(model, IMAGE)[0])
    assert str(caught.value).endswith(f" {last}")


@pytest.mark.parametrize("kind", ["class token", "swin, channels last"])
def test_every_map_of_a_layer_looks_at_tokens(kind: str) -> None:
    build, name, to_map = MODELS[kind]
    model = made(build)
    for explain in (attrib.hirescam, attrib.layercam, attrib.gradcam_plus_plus, attrib.eq6, attrib.guided_gradcam):
        found = explain(model, IMAGE, LABEL)
        assert found.shape == (2, 16, 24)
        assert (found >= 0).all()
        same = explain(model, IMAGE, LABEL, layer=name, reshape=to_map)
        torch.testing.assert_close(found, same)
