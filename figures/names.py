"""Which checkpoint stands for a paper's model, and labels of checkpoints, data, architectures and attacks."""

import re

Role = tuple[str, ...]
"""A model of a paper: the names of checkpoints that may stand for it, the preferred one first."""

STANDARD: Role = ("raw", "standard")
ADV: Role = ("madry", "pgd-at")
"""AALP's adversarial training: the loss of clean and adversarial images."""
PGD_AT: Role = ("pgd-at", "madry")
"""AGAIN's: the loss of adversarial images alone."""
PGD_AT_AWP: Role = ("pgd-at-awp",)
SMOOTH: Role = ("pgd-at-smooth",)
SMOOTH_RAMP: Role = ("pgd-at-smooth-ramp",)
ALP: Role = ("alp",)
AALP: Role = ("aalp",)
NO_FUSION: Role = ("again-no-hff",)
AGAIN: Role = ("again", "again-logit")
LOGIT: Role = ("again-logit",)
FORMS: tuple[Role, ...] = (("again-release",), ("again",), ("again-own",), LOGIT, ("again-logit-plain",))
"""Every form of AGAIN separately."""
BASELINES: dict[str, Role] = {"again-release": PGD_AT_AWP}
"""Baselines other than PGD_AT: the release of AGAIN is trained with AWP, and so is its baseline."""

LABELS = {
    "raw": "standard", "standard": "standard", "madry": "Madry adv", "pgd-at": "PGD-AT", "pgd-at-awp": "PGD-AT + AWP",
    "pgd-at-smooth": "PGD-AT, smoothing 0.4", "pgd-at-smooth-ramp": "PGD-AT, smoothing 0.4 (ramp)",
    "alp": "ALP", "trades": "TRADES", "mart": "MART", "aalp-gd": "AALP-gd", "aalp-sw": "AALP-sw", "aalp": "AALP",
    "again-no-hff": "AGAIN w/o HFF", "again-release": "AGAIN (as released, AWP)", "again": "AGAIN",
    "again-own": "AGAIN (own gates)", "again-logit": "AGAIN (logit form)",
    "again-logit-plain": "AGAIN (logit form, plain)", "again-trades": "AGAIN on TRADES",
    "raw-gd": "standard + gd", "adv-gd": "Madry adv + gd",
}  # fmt: skip
"""Labels of checkpoints, in the order in which figures show them; other names are their own labels."""
DATA = {"mnist": "MNIST", "svhn": "SVHN", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "glyphs": "glyphs"}
ARCHITECTURES = {
    "lenet": "LeNet", "resnet9": "ResNet-9", "resnet32": "ResNet-32", "resnet18": "ResNet-18",
    "preactresnet18": "PreAct ResNet-18", "wrn-34-10": "WRN-34-10",
}  # fmt: skip

SWEEP = re.compile(r"(aalp|again|again-logit)-alpha-(\d+(?:\.\d+)?)")
"""The name of a checkpoint that belongs to a sweep over alpha."""
SEED = re.compile(r"(.+)-seed\d+")
"""The name of one more seed of a checkpoint."""


def label(name: str) -> str:
    """The label of a checkpoint in figures."""
    if swept := SWEEP.fullmatch(name):
        return f"{LABELS[swept[1]]}, alpha {swept[2]}"
    return LABELS.get(name, name)


def order(name: str) -> tuple[int, str]:
    """Sort key of checkpoints: the order of LABELS, then others by name."""
    known = list(LABELS)
    return (known.index(name) if name in known else len(known), name)


def place(folder: str) -> str:
    """The label of a folder of results: ``MNIST, LeNet`` for ``mnist-lenet``."""
    data, _, arch = folder.partition("-")
    return f"{DATA.get(data, data)}, {ARCHITECTURES.get(arch, arch)}"


def place_order(folder: str) -> tuple[int, str]:
    """Sort key of folders of results: the order of DATA."""
    known = list(DATA)
    data = folder.partition("-")[0]
    return (known.index(data) if data in known else len(known), folder)


def attack(column: str) -> str:
    """``pgd-10`` as papers write it: ``PGD-10``."""
    return {"clean": "clean", "worst": "worst", "autoattack": "AutoAttack"}.get(column, column.upper())
