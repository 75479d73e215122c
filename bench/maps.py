"""SmoothGrad and Grad-CAM against Captum used as in its tutorials: ``python -m bench.maps``.

The peers are NoiseTunnel around Saliency (signed gradients, 32 samples, the same noise level) and LayerGradCam,
interpolated to the image's size. They run on the unchanged model, batch by batch. To show that the fast maps are right,
the table has their Spearman correlation with the same maps in float32, over all pixels of all images, at attrib's
precision ``auto``. The models are trained ones with their data (``--ckpt``; by default that of ``make demo``, if it
exists) and an untrained resnet18 on digits.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor, nn

import attrib
from attrib.analyses.span import Span
from attrib.data import Batch
from attrib.fast import keep_prepared
from attrib.inference import Precision
from bench.timing import (
    Row,
    Seconds,
    add_batch_sizes,
    batch_sizes,
    begin,
    example,
    in_turn,
    parser,
    publish,
    versus,
)

SAMPLES, SIGMA = 32, 0.15
TARGET = {"smoothgrad": 2.2, "gradcam": 1.5}
Map = Callable[[nn.Module, Batch], Tensor]


def main() -> None:
    """Print the comparison and write it as JSON."""
    cli = parser(__doc__, rounds=3)
    add_batch_sizes(cli, cpu=250)
    cli.add_argument("--arch", default="resnet18", help="of the untrained model")
    cli.add_argument("--ckpt", nargs="*", default=["runs/demo/pgd-at/model.pt"])
    cli.add_argument("--images", type=int, default=2000, help="for Grad-CAM")
    cli.add_argument("--smooth-images", type=int, help="for SmoothGrad (CPU 32, GPU 128)")
    options = cli.parse_args()
    device = begin(options)
    rows: list[Row] = []
    seconds: dict[str, dict[str, list[Seconds]]] = {}

    def compare(name: str, title: str, model: nn.Module, batches: list[Batch], precision: Precision) -> None:
        own, peer = OURS[name], THEIRS[name]

        def run(side: Map) -> list[Tensor]:
            with keep_prepared(model):  # as the commands do
                return [side(model, batch).cpu() for batch in batches]

        ours = partial(own, precision=precision)
        sides = {"attrib": lambda: run(ours), "captum": lambda: run(peer)}
        times = in_turn(sides, rounds=options.rounds, device=device)
        count = sum(len(batch.label) for batch in batches)
        what = f"{name}, {title}, {count:,} images, {precision}, batches of {len(batches[0].label)}"
        seconds[what] = times
        exact, fast = (torch.cat(run(partial(own, precision=p))) for p in ("fp32", precision))
        rows.append(versus(what, times, target=TARGET[name]) | {"rank correlation": spearman(exact, fast)})

    sizes = batch_sizes(options, device)
    smooth = options.smooth_images or (128 if device.type == "cuda" else 32)
    for path in filter(lambda path: Path(path).exists(), options.ckpt):
        model, described = attrib.load(path)
        model.to(device)
        title = f"{described.arch} ({Path(path).parent.name}, {described.data})"
        for name, count in (("smoothgrad", smooth), ("gradcam", options.images)):
            data = attrib.dataset(described.data, limit=count)
            for size in dict.fromkeys(min(size, count) for size in sizes):
                compare(name, title, model, list(data.batches(size, device=device)), automatic(name, device))
    untrained, many = example(options.arch, options.images, device)
    title = f"{options.arch} (untrained)"
    few = split(many, smooth)[:1]
    compare("smoothgrad", title, untrained, few, automatic("smoothgrad", device))
    for precision in dict.fromkeys((automatic("gradcam", device), automatic("smoothgrad", device))):
        for size in sizes:
            compare("gradcam", title, untrained, split(many, size), precision)
    publish(
        "maps",
        f"Maps against Captum, SmoothGrad of {SAMPLES} samples,"
        f" {torch.get_num_threads()} threads, {device}; median of {options.rounds} rounds",
        rows, options, device, seconds=seconds,
    )  # fmt: skip


def split(batch: Batch, size: int) -> list[Batch]:
    """Batches of ``size`` images, without masks."""
    parts = zip(batch.image.split(size), batch.label.split(size), batch.index.split(size), strict=True)
    return [Batch(image, label, index, None) for image, label, index in parts]


def automatic(name: str, device: torch.device) -> Precision:
    """The precision that ``auto`` means for this map."""
    return Span(map=name).map_precision(device)


def our_smoothgrad(model: nn.Module, batch: Batch, *, precision: Precision) -> Tensor:
    """(N,H,W)"""
    return attrib.smoothgrad(
        model, batch.image, batch.label, samples=SAMPLES, sigma=SIGMA, index=batch.index, precision=precision
    )


def our_gradcam(model: nn.Module, batch: Batch, *, precision: Precision) -> Tensor:
    """(N,H,W)"""
    return attrib.gradcam(model, batch.image, batch.label, precision=precision)


def captum_smoothgrad(model: nn.Module, batch: Batch) -> Tensor:
    """(N,H,W), in chunks of samples, because all at once would run out of memory."""
    gradients: Tensor = NoiseTunnel(Saliency(model)).attribute(
        batch.image.clone().requires_grad_(), target=batch.label, abs=False, nt_type="smoothgrad",
        nt_samples=SAMPLES, nt_samples_batch_size=SAMPLES // 4, stdevs=SIGMA,
    )  # fmt: skip
    return gradients.detach().abs().sum(1)


def captum_gradcam(model: nn.Module, batch: Batch) -> Tensor:
    """(N,H,W)"""
    explainer = LayerGradCam(model, model.get_submodule("stages")[-1])  # type: ignore[index]
    grid = explainer.attribute(batch.image, target=batch.label, relu_attributions=True)
    maps: Tensor = LayerAttribution.interpolate(grid.detach(), batch.image.shape[-2:], "bilinear")
    return maps.squeeze(1)


OURS: dict[str, Callable[..., Tensor]] = {"smoothgrad": our_smoothgrad, "gradcam": our_gradcam}
THEIRS: dict[str, Map] = {"smoothgrad": captum_smoothgrad, "gradcam": captum_gradcam}


def spearman(a: Tensor, b: Tensor) -> float:
    """The rank correlation of two sets of maps, (N,H,W) each. Equal values (Grad-CAM's zeros) share a rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


if __name__ == "__main__":
    main()
