"""The public data sets: one record each with all facts about it.

A new data set needs one record here, and a reader in ``readers`` if its file format is new.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from attrib.data import glyphs, readers

Reader = Callable[[Sequence[Path]], readers.Arrays]


class Budget(NamedTuple):
    """An L-infinity attack's radius and step in pixel values of [0,1], and its number of steps."""

    eps: float
    step_size: float
    steps: int


class Augmentation(NamedTuple):
    """Training's augmentation: pad by this many pixels and crop at random; flip left and right at random."""

    pad: int
    flip: bool


class Layout(NamedTuple):
    """One layout of a data set on disk: folder below the root, files by split, and their reader."""

    folder: str
    files: dict[str, tuple[str, ...]]
    read: Reader


class Remote(NamedTuple):
    """A file to download: its URL, its checksum, and its folder below the cache."""

    url: str
    md5: str
    folder: str


DEFAULT_ATTACK = Budget(8 / 255, 2 / 255, 10)
"""The attack for CIFAR, glyphs, and data outside the catalog."""
NO_AUGMENTATION = Augmentation(pad=0, flip=False)


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """A public data set. mean, std: per channel of the training images, pixels in [0,1]."""

    classes: tuple[str, ...]
    counts: Mapping[str, int]
    """Images per split. A file with fewer is truncated."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    attack: Budget = DEFAULT_ATTACK
    augmentation: Augmentation = NO_AUGMENTATION
    layouts: tuple[Layout, ...] = ()
    """In the order of the search. The empty folder is the root itself."""
    remotes: Mapping[str, tuple[Remote, ...]] = field(default_factory=dict)


def default_attack(name: str) -> Budget:
    """The papers' attack on the data set of this name; ``DEFAULT_ATTACK`` if it is not in the catalog."""
    return CATALOG[name].attack if name in CATALOG else DEFAULT_ATTACK


def _layouts(folders: Sequence[str], *, train: Sequence[str], test: Sequence[str], read: Reader) -> tuple[Layout, ...]:
    return tuple(Layout(folder, {"train": tuple(train), "test": tuple(test)}, read) for folder in folders)


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers"
_DIGITS = tuple("0123456789")
_CIFAR10_ARCHIVE = (Remote(f"{_CIFAR_URL}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", ""),)
_CIFAR100_ARCHIVE = (Remote(f"{_CIFAR_URL}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", ""),)
_FIVE = [f"data_batch_{number}" for number in range(1, 6)]

_GLYPHS = PublicData(classes=glyphs.CLASSES, counts=glyphs.COUNTS, mean=(0.5, 0.5, 0.5), std=(0.301, 0.301, 0.301))

_MNIST = PublicData(
    classes=_DIGITS,
    counts={"train": 60_000, "test": 10_000},
    mean=(0.1307,),
    std=(0.3081,),
    attack=Budget(0.3, 0.01, 40),
    layouts=_layouts(
        ["mnist", "MNIST/raw", ""],
        train=["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        test=["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
        read=readers.mnist,
    ),
    remotes={
        "train": (
            Remote(f"{_MNIST_URL}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "mnist"),
            Remote(f"{_MNIST_URL}/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", "mnist"),
        ),
        "test": (
            Remote(f"{_MNIST_URL}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", "mnist"),
            Remote(f"{_MNIST_URL}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", "mnist"),
        ),
    },
)

_SVHN = PublicData(
    classes=_DIGITS,
    counts={"train": 73_257, "test": 26_032},
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    attack=Budget(12 / 255, 3 / 255, 10),
    augmentation=Augmentation(pad=4, flip=False),  # digits have no mirror image
    layouts=_layouts(["svhn", ""], train=["train_32x32.mat"], test=["test_32x32.mat"], read=readers.svhn),
    remotes={
        "train": (Remote(f"{_SVHN_URL}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "svhn"),),
        "test": (Remote(f"{_SVHN_URL}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "svhn"),),
    },
)

_CIFAR10 = PublicData(
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts={"train": 50_000, "test": 10_000},
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    augmentation=Augmentation(pad=4, flip=True),
    layouts=_layouts(
        ["cifar-10-batches-bin", ""],
        train=[f"{name}.bin" for name in _FIVE],
        test=["test_batch.bin"],
        read=partial(readers.cifar_binary, classes=10),
    )
    + _layouts(
        ["cifar-10-batches-py", ""],
        train=_FIVE,
        test=["test_batch"],
        read=partial(readers.cifar_python, classes=10),
    ),
    remotes={"train": _CIFAR10_ARCHIVE, "test": _CIFAR10_ARCHIVE},
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = PublicData(
    classes=tuple(_CIFAR100_CLASSES.split()),
    counts={"train": 50_000, "test": 10_000},
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    augmentation=Augmentation(pad=4, flip=True),
    layouts=_layouts(
        ["cifar-100-binary", ""],
        train=["train.bin"],
        test=["test.bin"],
        read=partial(readers.cifar_binary, classes=100),
    )
    + _layouts(
        ["cifar-100-python", ""],
        train=["train"],
        test=["test"],
        read=partial(readers.cifar_python, classes=100),
    ),
    remotes={"train": _CIFAR100_ARCHIVE, "test": _CIFAR100_ARCHIVE},
)

CATALOG: dict[str, PublicData] = {
    "glyphs": _GLYPHS,
    "mnist": _MNIST,
    "svhn": _SVHN,
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
}
DATA_SETS = (*CATALOG, "folder:DIR", "npz:FILE", "cifar10c:NAME:SEVERITY", "a picture file")
"""What ``dataset`` takes."""
