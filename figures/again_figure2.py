"""AGAIN supplement, Figure 2: an illustration of attribution spans. ``python -m figures.again_figure2``.

Reads what ``attrib span --out`` left in ``span-examples.npz``.
"""

from pathlib import Path

import numpy as np

from attrib import plot

HERE = Path(__file__).parent


def main() -> None:
    """Write again-figure2-mnist.pdf and .png."""
    with np.load(HERE / "data" / "mnist-lenet" / "span-examples.npz") as saved:
        examples = {name: saved[name] for name in saved.files}
    few = {name: examples[name][:4] for name in ("image", "index", "label")}
    few |= {name: examples[name][:, :4] for name in ("map", "span", "prediction")} | {"model": examples["model"]}
    figure = plot.map_grid(few, title="Grad-CAM, threshold mean, MNIST test", spans=True)
    for path in plot.save(figure, HERE / "again-figure2-mnist"):
        print(path)


if __name__ == "__main__":
    main()
