"""Accuracy under attack (AALP, Table 2): clean, FGSM, PGD-k, CW-k, AutoAttack, over radii, and the gap to training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses import robust_tables as words
from attrib.analyses.base import Analysis
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured, Pass
from attrib.analyses.options import Attack, fraction, option
from attrib.analyses.radii import Radius, parse_eps, parse_steps, rising
from attrib.analyses.table import Table, differences
from attrib.analyses.training_images import training_images
from attrib.bounds import LARGEST_NUMBER
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import accuracy, objections
    from attrib import autoattack as strongest
    from attrib.analyses.result import Result
    from attrib.data import Batch, Dataset
    from attrib.models.specs import Model
    from attrib.plots import robust as plots
else:
    accuracy, strongest, plots = Lazy("attrib.accuracy"), Lazy("attrib.autoattack"), Lazy("attrib.plots.robust")
    objections, pd, torch = Lazy("attrib.objections"), Lazy("pandas"), Lazy("torch")

WORST, AUTOATTACK = "worst", "autoattack"
"""The images that are right under the longest PGD and under the longest CW; AutoAttack's name as an attack."""
COLUMNS = (
    "model", "seed", "split", "index", "file", "label", "attack", "eps", "prediction", "correct", "margin", "via",
    "gradient",
)  # fmt: skip
SQUARE_SHARE = 0.002
"""If Square alone breaks a larger share of the images, warn (pyautoattack's own threshold)."""


@dataclass(frozen=True, kw_only=True)
class Robustness(Analysis):
    """Accuracy clean and under FGSM, PGD-k, CW-k (and AutoAttack), with intervals, and paired differences."""

    name: ClassVar[str] = "robust"
    attacks: ClassVar[bool] = True
    keys: ClassVar[tuple[str, ...]] = ("split", "model", "seed", "index")
    needs_labels: ClassVar[bool] = False

    eps: float | Sequence[float] | None = option(
        None, "Radius, as 0.03 or 8/255 (default: the data set's), or a sweep FROM:TO:COUNT, as 0:16/255:9;"
        " the step size of a sweep grows with the radius unless --step-size is given.", parse=parse_eps,
    )  # fmt: skip
    step_size: float | None = option(
        None, "Step size of the attacks, as 0.01 or 2/255.", parse=lambda given: fraction(given, "step_size")
    )
    steps: Sequence[int] = option(
        (10, 20, 40, 100), "The k of PGD-k and CW-k: steps of one run, each with a snapshot.", parse=parse_steps,
        show=lambda steps: ",".join(map(str, steps)),
    )  # fmt: skip
    worst: bool = option(False, "Count an image as broken if it is wrong when clean or after any step.")
    restarts: int = option(1, "Random starts of PGD and CW; the worst counts, image by image.", low=1)
    autoattack: bool = option(
        False, "Run AutoAttack too (standard version, fp32; its random draws depend on --batch-size).",
        check=lambda wanted: strongest.require() if wanted else None,
    )  # fmt: skip
    gap: bool = option(False, "Measure as many training images too, and the gap: training less test accuracy.")

    def __post_init__(self) -> None:
        """Sort radii and steps, and keep a single radius as a number; then check every option."""
        steps = rising("steps", self.steps)
        if not 1 <= steps[0] <= steps[-1] <= LARGEST_NUMBER or any(count % 1 for count in steps):
            raise InputError(f"steps: expected at least 1, in whole numbers that a machine holds, got {self.steps}")
        object.__setattr__(self, "steps", tuple(map(int, steps)))
        if self.eps is not None:
            radii = rising("eps", self.eps)
            object.__setattr__(self, "eps", radii if len(radii) > 1 else radii[0])
        for eps in rising("eps", self.eps or 0):
            Attack("pgd", eps, self.step_size)  # raises for what lies outside [0,1]
        super().__post_init__()

    def usual_batch(self, device: "torch.device") -> int:
        """The default batch size. It is small, since unfinished work is saved batch by batch."""
        return 500 if device.type == "cuda" else 100

    def resolved(self, data: "Dataset | None") -> "Robustness":
        """With the data set's radius and step size, but not for a sweep, whose step size grows with the radius."""
        assert data is not None
        attack = Attack("pgd").resolved(data.name)
        step_size = attack.step_size if self.step_size is None and not isinstance(self.eps, tuple) else self.step_size
        return replace(self, eps=attack.eps if self.eps is None else self.eps, step_size=step_size)

    def radii(self, data: str) -> list[Radius]:
        """One radius, or those of a sweep, rising. The analysis must be ``resolved``."""
        usual = Attack("pgd").resolved(data)
        assert usual.step_size is not None
        assert usual.eps is not None
        return [
            Radius(eps, usual.step_size * eps / usual.eps if self.step_size is None else self.step_size)
            for eps in rising("eps", self.eps)
        ]

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """The images and, with ``gap``, as many training images."""
        if self.gap and not data.labelled:
            raise InputError(f"gap: needs labels, and {data.name} is unlabelled")
        return [Pass(data), training_images(models, data)] if self.gap else [Pass(data)]

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """The outputs to attack, and the radii."""
        paths = accuracy.attack_paths(model.opened_module)
        return {"attacked": [path.name for path in paths], "radii": self.radii(context.images.name)}

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """Predictions, clean and under every attack at every radius; for training images at the largest radius only."""
        module, image, label, data = model.opened_module, batch.image, batch.label, context.images
        names = [path.name for path in accuracy.attack_paths(module)]
        gradient = accuracy.gradient_size(module, image, label)
        known = self.known_labels(batch, context)

        def columns(
            attack: str, eps: float, outcome: "accuracy.Outcome", via: list[str]
        ) -> "dict[str, Tensor | list[str]]":
            return {
                "label": known, "attack": [attack] * len(label),
                "eps": torch.full_like(label, eps, dtype=torch.float64), "prediction": outcome.prediction,
                "correct": outcome.prediction == label,
                "margin": -outcome.margin.double(),  # as in every table: positive where the image is right
                "via": via, "gradient": gradient,
            }  # fmt: skip

        kinds = {CLEAN: columns(CLEAN, 0.0, accuracy.evaluate(module, image, label), ["-"] * len(label))}
        radii = list(enumerate(self.radii(data.name)))
        for number, (eps, step_size) in radii[-1:] if self.gap and data.split == "train" else radii:
            outcomes = accuracy.attacked(
                module, image, label, eps=eps, step_size=step_size, steps=self.steps, seed=self.seed,
                index=batch.index, restarts=self.restarts, worst=self.worst,
                precision=self.attack_precision(context.device),
            )  # fmt: skip
            for attack, outcome in outcomes.items():
                via = [names[path] for path in outcome.path.tolist()]
                kinds[f"{attack} {number}"] = columns(attack, eps, outcome, via)
            if self.autoattack:
                file = f"autoattack-{model.stem}-{model.fingerprint}-{data.split}-{number}-{int(batch.index[0])}.pt"
                state = context.partial / file if context.partial else None
                broken, parts = strongest.autoattack(module, image, label, eps=eps, seed=self.seed, state=state)
                outcome = accuracy.evaluate(module, broken, label)
                kinds[f"{AUTOATTACK} {number}"] = columns(AUTOATTACK, eps, outcome, [part or "-" for part in parts])
        return Measured(kinds)

    def correct(self, files: Files, *, split: str, eps: float) -> dict[str, Array]:
        """Attack to whether each image is classified correctly, bool (S,N), at one radius; clean comes first."""
        by_attack = []
        for rows in files.rows:
            near = rows[rows["eps"].isin((0.0, eps))]  # comparing strings is slow: first drop most rows
            rows_at_eps = near[(near["split"] == split) & ((near["eps"] == eps) | (near["attack"] == CLEAN))]
            groups = rows_at_eps.groupby("attack")["correct"]
            by_attack.append({str(attack): correct.to_numpy(bool) for attack, correct in groups})
        attacks = [CLEAN, *accuracy.columns(self.steps)]
        correct = {attack: np.array([of_file[attack] for of_file in by_attack]) for attack in attacks}
        correct[WORST] = correct[f"pgd-{max(self.steps)}"] & correct[f"cw-{max(self.steps)}"]
        if self.autoattack:
            correct[AUTOATTACK] = np.array([of_file[AUTOATTACK] for of_file in by_attack])
        return correct

    def summarise(self, files: Files) -> dict[str, Any]:
        """Accuracy under every attack at the largest radius; with a sweep at every radius; with ``gap`` the gap."""
        facts, split = files.facts[0], str(files.rows[0]["split"].iloc[0])
        at_radius = [(radius, self.correct(files, split=split, eps=radius.eps)) for radius in facts["radii"]]
        largest, test = at_radius[-1]
        entry = {"n": test[CLEAN].shape[1], "attacked": facts["attacked"], **_accuracies(test)}
        if bool((files["label"] < 0).any()):  # unlabelled: the share of unchanged predictions is not accuracy
            entry["accuracy"] = None
        if len(at_radius) > 1:
            entry["sweep"] = [{**radius._asdict(), **_accuracies(correct)} for radius, correct in at_radius]
        if self.gap:
            entry["gap"] = _gap(self.correct(files, split="train", eps=largest.eps), test)
        return entry

    def row(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Accuracies and gaps each beside their interval."""
        others = {k: value for k, value in entry.items() if k not in ("accuracies", "accuracy", "intervals", "gap")}
        gap = {"gap": _with_intervals(entry["gap"]["difference"], entry["gap"]["intervals"])} if self.gap else {}
        return others | {"accuracy": _with_intervals(entry["accuracies"], entry["intervals"])} | gap

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference in accuracy under every attack at the largest radius, paired by image."""
        data = findings.context.images
        eps = self.radii(data.name)[-1].eps
        left, right = (self.correct(files, split=data.split, eps=eps) for files in (a, b))
        for attack, correct in left.items():
            yield {
                "attack": attack, "quantity": "accuracy", "eps": 0.0 if attack == CLEAN else eps,
                "n": correct.shape[1], **stats.paired_shares(correct, right[attack]).entry(),
            }  # fmt: skip

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The strength of the attacks; of a sweep, that at its largest radius."""
        context = findings.context
        most = max(len(context.classes_of(model)) for model in context.models)
        parts = strongest.parts(most) if self.autoattack else ()
        return {
            **self.radii(context.images.name)[-1]._asdict(), "steps": list(self.steps), "worst": self.worst,
            "restarts": self.restarts, "seed": self.seed, "precision": self.attack_precision(context.device),
            "autoattack": {"version": "standard", "parts": list(parts)} if self.autoattack else None,
        }  # fmt: skip

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterator[str]:
        """Warn of attacks that cannot reach the radius, and of signs that an attack fails or a model is at chance."""
        data = findings.context.images
        radii = self.radii(data.name)
        yield from objections.warn_short_attack(*radii[-1], max(self.steps))
        for files in findings.files.values():
            for number, model in enumerate(files.models):
                file = files.only(number)
                rows = file.rows[0][file.rows[0]["split"] == data.split]
                clean = rows[rows["attack"] == CLEAN]
                at_radius = [self.correct(file, split=data.split, eps=radius.eps) for radius in radii]
                points = [
                    objections.Point(*radius, {attack: correct[attack][0] for attack in accuracy.columns(self.steps)})
                    for radius, correct in zip(radii, at_radius, strict=True)
                ]
                sentences = objections.objections(
                    clean["correct"].to_numpy(bool), clean["label"].to_numpy(int), clean["gradient"].to_numpy(float),
                    points, classes=len(findings.context.classes_of(model)), steps=self.steps,
                    causes=objections.causes(model, data),
                )  # fmt: skip
                for sentence in (*sentences, *_about_square(rows[rows["attack"] == AUTOATTACK])):
                    yield f"{model.label}: {sentence}"

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per split, model, image, attack and radius."""
        return {"": findings.rows[[name for name in COLUMNS if name in findings.rows]]}

    def tables(self, result: "Result") -> list[Table]:
        """Attacks in rows, so that several models fit side by side; then the sweep, the pairs and the gap."""
        summary = result.summary
        models = summary["models"]
        tables = [Table(words.title(summary), words.accuracy_rows(models), words.caption(summary))]
        if "sweep" in models[0]:
            caption = "the first table: the largest radius"
            tables.append(Table("Accuracy by radius (%)", words.sweep_rows(models), caption))
        tables += differences(summary, words.pair_rows(summary), "exact paired test (McNemar)")
        if self.gap:
            caption = (
                f"{models[0]['gap']['n_train']:,} training images that every model was trained on; for"
                " checkpoints of python -m train without the images held out for choosing the epoch"
            )
            title = "Robust generalisation gap: training less test accuracy (points)"
            tables.append(Table(title, words.gap_rows(models), caption))
        return tables

    def papers(self, result: "Result") -> dict[str, Table]:
        """AALP's Table 2: a row per model (and radius of a sweep), a column per attack, below each its interval."""
        summary = result.summary
        return {"": Table(words.title(summary), words.paper_rows(summary), words.caption(summary))}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The accuracies of the table, and the curves of a sweep."""
        summary = result.summary
        models = summary["models"]
        heading = f"{text.data_words(summary)}, {models[0]['n']:,} images"
        bars = pd.DataFrame([row for entry in models for row in words.plotted(entry, entry)])
        dots = pd.DataFrame([
            {"model": entry["name"], "attack": words.title_of(attack), "accuracy": value}
            for entry in models for seed in entry.get("seeds", ()) for attack, value in seed["accuracies"].items()
        ])  # fmt: skip
        title = f"{heading}, eps {text.radius(summary['eps'])}"
        figures = {"robust": plots.accuracies(bars, seeds=dots, title=title, look=result.style)}
        if "sweep" in models[0]:
            points = [row for entry in models for point in entry["sweep"] for row in words.plotted(entry, point)]
            attacks = [f"PGD-{max(self.steps)}", f"CW-{max(self.steps)}", *(["AutoAttack"] * self.autoattack)]
            figures["robust-eps"] = plots.eps_curves(
                pd.DataFrame(points), attacks=attacks, title=heading, look=result.style
            )
        return figures


def _accuracies(correct: Mapping[str, Array]) -> dict[str, Any]:
    """Accuracy and 95 % interval under every attack, from whether each image is classified correctly, (S,N)."""
    return {
        "accuracies": {attack: float(each.mean()) for attack, each in correct.items()},
        "intervals": {attack: list(stats.share_interval(each)) for attack, each in correct.items()},
    }


def _gap(train: Mapping[str, Array], test: Mapping[str, Array]) -> dict[str, Any]:
    """The robust generalisation gap under every attack: training less test accuracy, from (S,N) and (S,M)."""
    gaps = {attack: stats.unpaired_shares(correct, test[attack]) for attack, correct in train.items()}
    return {
        "n_train": train[CLEAN].shape[1],
        "train": {attack: float(correct.mean()) for attack, correct in train.items()},
        "difference": {attack: difference for attack, (difference, *_) in gaps.items()},
        "intervals": {attack: list(ends) for attack, (_, *ends) in gaps.items()},
    }


def _with_intervals(values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: part for key in values for name, part in ((key, values[key]), (f"{key}_ci", intervals[key]))}


def _about_square(rows: "pd.DataFrame") -> Iterator[str]:
    """Warn if Square breaks images that AutoAttack's other parts do not; rows: AutoAttack's rows of one file."""
    share = float((rows["via"] == "square").mean()) if len(rows) else 0.0
    if share > SQUARE_SHARE:
        yield (
            f"Square, which needs no gradient, broke {share:.1%} of the images after AutoAttack's other parts had not:"
            " a sign of masked gradients"
        )
