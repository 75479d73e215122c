"""Format numbers and captions in the same way in every table, caption and figure. No torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrib import map_table

Shown = Callable[[float], str]
"""A function that formats a number."""


def missing(value: float | None) -> bool:
    """Whether the value is missing: None (as in JSON) or NaN."""
    return value is None or value != value


def number(value: float | None, form: str, *, scale: float = 1) -> str:
    """``scale`` times the value in the format, with a minus sign instead of a hyphen; a dash if it is missing."""
    return "–" if value is None or value != value else format(scale * value, form).replace("-", "−")


def percent(value: float | None) -> str:
    """A share in percent with two decimals."""
    return number(value, ".2f", scale=100)


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return number(value, "+.2f", scale=100)


def count(images: float) -> str:
    """A number of images; a mean over seeds has one decimal if it is not whole."""
    return f"{images:,.1f}".removesuffix(".0")


def data_words(summary: Mapping[str, Any]) -> str:
    """The data and its split; the split ``all`` means that there is none."""
    words = str(summary["data"]) if summary["split"] == "all" else f"{summary['data']} {summary['split']}"
    return f"{words}, unlabelled" if summary.get("unlabelled") else words


def map_words(summary: Mapping[str, Any]) -> str:
    """The map with its options, and the files of maps that were made elsewhere."""
    models = summary.get("models", ())
    elsewhere = [entry for entry in models if "maps" in entry]
    files = f"maps from {', '.join(maps_files(models))}"
    if not elsewhere:
        return _made_here(summary)
    if len(elsewhere) == len(models):
        return files
    return f"{_made_here(summary)} ({', '.join(str(entry['name']) for entry in elsewhere)}: {files})"


def maps_files(models: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the files of maps that were made elsewhere, each once."""
    files = [entry["maps"] for entry in models if "maps" in entry]
    paths = [path for file in files for path in (file if isinstance(file, list) else [file])]
    return list(dict.fromkeys(Path(path).name for path in paths))


def _made_here(summary: Mapping[str, Any]) -> str:
    options = [
        f"{name.replace('_', ' ')} {value:g}"
        for name in map_table.OPTIONS
        if (value := summary["options"].get(name)) is not None
    ]
    name = str(summary["map"])
    title = (map_table.MAPS[name].title if name in map_table.MAPS else "") or name
    return f"{title} ({', '.join(options)})" if options else title


def images_words(summary: Mapping[str, Any], images: int) -> str:
    """The number of images, and the data and split that they are from."""
    kind = "images" if summary["split"] == "all" else f"{summary['split']} images"
    words = f"{images:,} {kind} of {summary['data']}"
    return f"{words}, unlabelled" if summary.get("unlabelled") else words


def target_words(summary: Mapping[str, Any]) -> str:
    """The explained class: label, prediction, or a class's name."""
    return str(summary.get("target_class", summary["target"]))


def interval(ends: Sequence[float], shown: Shown) -> str:
    """The ends as "low to high", not with a dash, which looks like a minus; a dash if the interval is missing."""
    return "–" if missing(ends[0]) else " to ".join(map(shown, ends))


def with_interval(value: float, ends: Sequence[float], shown: Shown) -> str:
    """The value, with its interval in brackets if it has one."""
    return shown(value) if missing(ends[0]) else f"{shown(value)} ({interval(ends, shown)})"


def p_value(p: float | None) -> str:
    """A p-value with three decimals."""
    return "–" if p is None or p != p else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_columns(pair: Mapping[str, float]) -> dict[str, str]:
    """The columns of a comparison's p-value and corrected p-value."""
    return {"p": p_value(pair["p"]), "p (Holm)": p_value(pair["p_holm"])}


def difference_columns(pair: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a difference of shares: points, interval, p-values."""
    return {
        "difference (points)": points(pair["difference"]), "95 % CI": interval(pair["ci"], points), **p_columns(pair),
    }  # fmt: skip


def attack_words(attack: Mapping[str, Any]) -> str:
    """The attack and its settings; FGSM has no steps."""
    words = f"{attack['name'].upper()} eps {radius(attack['eps'])}"
    if attack["name"] == "fgsm":
        return words
    return f"{words}, step {radius(attack['step_size'])}, {attack['steps']} steps"


def radius(eps: float) -> str:
    """A radius or step size as K/255 if it is such a fraction up to 32/255, as papers write it; else a decimal."""
    whole = round(255 * eps)
    return f"{whole}/255" if 0 < whole <= 32 and abs(255 * eps - whole) < 1e-3 else f"{eps:.4g}"


def several_seeds(models: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any name in the summary has several files."""
    return any("seeds" in entry for entry in models)


def seeds_column(entry: Mapping[str, Any], models: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The column "seeds" of a model's row, if any of the models has several seeds."""
    return {"seeds": str(len(entry.get("seeds", "1")))} if several_seeds(models) else {}


def interval_words(models: Iterable[Mapping[str, Any]], kind: str = "bootstrap") -> str:
    """The kind of the models' intervals, and what they hold for."""
    models = list(models)
    several = ["seeds" in entry for entry in models]
    over_images, over_seeds = f"95 % {kind} intervals over images", "t intervals over seeds and images"
    if all(several):
        return f"95 % {over_seeds}"
    if any(several):
        return f"{over_images} where a name has one file, for this file only; of several seeds: {over_seeds}"
    if all("maps" in entry for entry in models):
        return f"{over_images}, for these maps only"
    which = "this file" if len(several) == 1 else "these files"
    return f"{over_images}, for {which} only: another training run can differ by more"


def p_words(models: Iterable[Mapping[str, Any]], test: str) -> str:
    """The test of the p-values, and what they compare; test: the test between two files."""
    models = list(models)
    several = ["seeds" in entry for entry in models]
    corrected = "p (Holm): corrected for all comparisons of the table."
    if not any(several) and all("maps" in entry for entry in models):
        return f"p: {test}. It compares the maps in {', '.join(maps_files(models))}, not models. {corrected}"
    if not any(several):
        elsewhere = ", ".join(maps_files(models))
        exception = f"; of {elsewhere} the maps, not a model" if elsewhere else ""
        return f"p: {test}. It compares two files, not two methods{exception}. {corrected}"
    words = "p: t test over seeds and images. It compares methods"
    if not all(several):
        words += (
            "; a name with one file borrows the other's spread over seeds, which assumes that both spread alike, and"
            " its own interval is over images only"
        )
    if several.count(False) > 1:
        words += f". Between two single files: {test}; it compares two files, not two methods"
    return f"{words}. {corrected}"


def first_seeds(models: Iterable[Mapping[str, Any]]) -> str:
    """The addition to the title of example images if a model has several seeds."""
    return "; of several seeds the first" if several_seeds(models) else ""


def qualified_name(function: Callable[..., Any]) -> str:
    """module.name of a function, of the function in a functools.partial, or of a callable's class."""
    named = function if hasattr(function, "__qualname__") else getattr(function, "func", type(function))
    return f"{named.__module__}.{named.__qualname__}"
