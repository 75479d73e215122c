"""Models from outside: call their factory, resize and normalise their input, take off wrappers."""

import copy
import importlib
import importlib.util
import io
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional as F

import attrib
from attrib.bounds import LARGEST_SIDE
from attrib.errors import InputError, meant, one_line
from attrib.models.classifier import normalise, statistics
from attrib.models.hubs import HUBS
from attrib.models.types import check_module, in_type_of


def load_factory(spec: str) -> nn.Module:
    """Call ``package.module:factory`` without arguments and return the module that it makes.

    A file in the current directory takes precedence. The directory stays on ``sys.path`` for later imports. The user's
    code sees an empty command line, and its prints go to stderr.
    Raises InputError if the import or the call fails, ends the program, or gives no ``nn.Module``.
    """
    source, _, name = spec.partition(":")
    if not source or not name or source.endswith(".py"):
        raise InputError(f"model: expected package.module:factory, like my_code:build for my_code.py, got {spec!r}")
    with _apart(source):
        imported = _imported(spec, source)
        try:
            factory = attrgetter(name)(imported)
        except AttributeError:
            raise InputError(f"model {spec}: {source} has no {name!r}{meant(name, dir(imported))}") from None
        if isinstance(factory, nn.Module):
            return factory
        if not callable(factory):
            raise InputError(f"model {spec}: expected a function or class, got {type(factory).__name__}")
        return made_by(factory, spec)


def made_by(factory: Callable[[], object], name: str) -> nn.Module:
    """Call the factory without arguments and return its module; name: the factory's name in errors.

    Raises InputError if the call fails, ends the program, or gives no ``nn.Module``.
    """
    try:
        module = factory()
    except SystemExit as stop:
        raise InputError(f"model {name}: calling it ended the program ({_exit(stop)})") from None
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"model {name}: calling it failed: {one_line(error)}{_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"model {name}: expected it to return an nn.Module, got {type(module).__name__}")
    return module


@contextmanager
def _apart(source: str) -> Iterator[None]:
    """Inside, the user's code sees an empty command line, and its prints go to stderr."""
    argv = sys.argv
    sys.argv = [f"{source.replace('.', '/')}.py"]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = argv


def _imported(spec: str, source: str) -> object:
    """Import the module; its output is shown on stderr if the import succeeds."""
    folder = str(Path.cwd())
    if not {folder, ""} & set(sys.path):
        sys.path.append(folder)  # last, so that a file like queue.py does not hide the module that others import
    importlib.invalidate_caches()
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), redirect_stdout(printed):
            _import_from(folder, source.partition(".")[0])
            module: object = importlib.import_module(source)
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
        reason = f"{one_line(error)}{_line(error)}{near}"
        raise InputError(f"model {spec}: cannot import {source}: {reason}") from error
    sys.stderr.write(printed.getvalue())
    return module


def _import_from(folder: str, name: str) -> None:
    """Import the module from the folder if it is there and no module has this name yet."""
    spec = None if name in sys.modules else PathFinder.find_spec(name, [folder])
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _exit(stop: SystemExit) -> str:
    return f"sys.exit({stop.code!r}){_line(stop)}"


def _line(error: BaseException) -> str:
    """`` in FILE, line N``: the last line of the user's own code in the traceback; empty if it has none."""
    paths = sysconfig.get_paths()
    libraries = [str(Path(attrib.__file__).parent), paths["stdlib"], paths["purelib"], paths["platlib"]]
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = Path(frame.f_code.co_filename)
        if file.is_file() and not any(file.is_relative_to(library) for library in libraries):
            return f" in {file}, line {line}"
    return ""


class Normalized(nn.Module):
    """Resize and normalise pixels in [0, 1] for an outside model.

    mean, std: one number per channel; None: no normalisation. size: (height, width) or one side; None: no resizing.
    The resize is bilinear with antialiasing. Raises InputError for bad numbers and for images with other channels.
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
        buffers = (None, None) if mean is None and std is None else statistics(mean or (), std or ())
        for name, values in zip(("mean", "std"), buffers, strict=True):
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> the module's output, logits (N, K)."""
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
    """The model without DataParallel and torch.compile, in which hooks do not fire; ``Normalized`` stays."""
    if not isinstance(module, Normalized):
        inner = _inside(module)
        return module if inner is None else bare(inner)
    inner = bare(module.module)
    if inner is module.module:
        return module
    copied = _bare.get(module)
    if copied is None or copied.module is not inner:
        copied = _bare[module] = copy.copy(module)
        copied._modules = {"module": inner}
    return copied


_bare: WeakKeyDictionary[nn.Module, "Normalized"] = WeakKeyDictionary()
"""One bare copy per model, so that caches keyed by the copy find their entries again."""


def _inside(module: nn.Module) -> nn.Module | None:
    """The model inside a wrapper; None if the module is no wrapper."""
    check_module(module)
    if isinstance(module, Normalized | nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, module.module)
    return dict(module.named_children()).get("_orig_mod")  # torch.compile's
