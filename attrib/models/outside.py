"""A model from outside: make it by the name of its factory, resize and normalise its input."""

import copy
import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional as F

from attrib.bounds import LARGEST_SIDE
from attrib.errors import InputError, meant, one_line
from attrib.models.classifier import normalise, statistics
from attrib.models.hubs import HUBS
from attrib.models.types import check_module, in_type_of


def load_factory(spec: str) -> nn.Module:
    """The model that ``package.module:factory`` makes: the factory is called without arguments.

    A module in the current directory comes first, and stays importable for what it imports later. The user's code sees
    no command line; what it prints goes to stderr.
    Raises InputError if the import or the call fails, ends the program, or gives something else than an ``nn.Module``.
    """
    source, _, name = spec.partition(":")
    if not source or not name or source.endswith(".py"):
        raise InputError(f"model: expected package.module:factory, like my_code:build for my_code.py, got {spec!r}")
    with _apart(source):
        found = _imported(spec, source)
        try:
            found = attrgetter(name)(found)
        except AttributeError:
            raise InputError(f"model {spec}: {source} has no {name!r}{meant(name, dir(found))}") from None
        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise InputError(f"model {spec}: expected a function or class, got {type(found).__name__}")
        return made_by(found, spec)


def made_by(factory: Callable[[], object], name: str) -> nn.Module:
    """The model that a factory makes when it is called without arguments; name: what errors call it.

    Raises InputError if the call fails, ends the program, or gives something else than an ``nn.Module``.
    """
    try:
        made = factory()
    except SystemExit as stop:
        raise InputError(f"model {name}: calling it ended the program ({_exit(stop)})") from None
    except Exception as error:  # somebody else's code runs here and may raise anything
        raise InputError(f"model {name}: calling it failed: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"model {name}: expected it to return an nn.Module, got {type(made).__name__}")
    return made


@contextmanager
def _apart(source: str) -> Iterator[None]:
    """Inside, code of a user sees no arguments of ours, and its prints do not stand among our results."""
    argv = sys.argv
    sys.argv = [f"{source.replace('.', '/')}.py"]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = argv


def _imported(spec: str, source: str) -> object:
    """The module; what it writes to stderr while it is imported is shown unless it ends the program."""
    folder = str(Path.cwd())
    if not {folder, ""} & set(sys.path):
        sys.path.append(folder)  # last: a file like queue.py must not stand for the module that others import
    importlib.invalidate_caches()
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), redirect_stdout(printed):
            _import_from(folder, source.partition(".")[0])
            found: object = importlib.import_module(source)
    except SystemExit as stop:
        last = next(iter(reversed(printed.getvalue().strip().splitlines())), "")
        raise InputError(
            f"model {spec}: importing {source} ended the program ({last or _exit(stop)}); put what runs there under"
            " if __name__ == '__main__'"
        ) from None
    except Exception as error:  # as above
        near = ""
        if isinstance(error, ModuleNotFoundError) and error.name == source.partition(".")[0]:
            others = [path.stem for path in Path(folder).glob("*.py")]
            near = meant(source, ["zoo", *HUBS, *others], after=spec.removeprefix(source))
        raise InputError(f"model {spec}: cannot import {source}: {one_line(error)}{near}") from error
    sys.stderr.write(printed.getvalue())
    return found


def _import_from(folder: str, name: str) -> None:
    """Import the module from the folder, if it is there and no module has this name yet."""
    found = None if name in sys.modules else PathFinder.find_spec(name, [folder])
    if found is None or found.loader is None:
        return
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _exit(stop: SystemExit) -> str:
    return f"sys.exit({stop.code!r})"


class Normalized(nn.Module):
    """An outside model behind the project's interface: pixels in [0, 1] are resized and normalised for it.

    mean, std: one number per channel, None leaves the pixels as they are; size: (height, width) or one side, None
    leaves the size as it comes. The resize is bilinear, smoothed when it shrinks. Raises InputError for bad numbers,
    or other channels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= LARGEST_SIDE:
            raise InputError(f"size: expected at least 1 pixel and at most {LARGEST_SIDE}, got {size}")
        known = (None, None) if mean is None and std is None else statistics(mean or (), std or ())
        for name, values in zip(("mean", "std"), known, strict=True):
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> whatever the module returns, logits (N, K)."""
        if self.size is not None and x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.mean is not None and self.std is not None:
            x = normalise(x, self.mean, self.std)
        out: Tensor = self.module(in_type_of(self.module, x))
        return out


def unwrapped(module: nn.Module) -> nn.Module:
    """The outside model itself, without ``Normalized``, DataParallel or torch.compile around it."""
    while (inner := _inside(module)) is not None:
        module = inner
    return module


def bare(module: nn.Module) -> nn.Module:
    """The model without what only changes how it runs, DataParallel and torch.compile; ``Normalized`` stays.

    Hooks do not see copies on other devices or compiled code.
    """
    if not isinstance(module, Normalized):
        inner = _inside(module)
        return module if inner is None else bare(inner)
    inner = bare(module.module)
    if inner is module.module:
        return module
    known = _bare.get(module)
    if known is None or known.module is not inner:
        known = _bare[module] = copy.copy(module)
        known._modules = {"module": inner}
    return known


_bare: WeakKeyDictionary[nn.Module, "Normalized"] = WeakKeyDictionary()
"""One bare model per model, so that what is kept of a model is found again."""


def _inside(module: nn.Module) -> nn.Module | None:
    """The model that a wrapper runs; None for what is no wrapper."""
    check_module(module)
    if isinstance(module, Normalized | nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, module.module)
    return dict(module.named_children()).get("_orig_mod")  # torch.compile's
