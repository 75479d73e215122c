"""Models from users' files that print, read the command line, exit, or have names of other modules."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import attrib
from attrib.errors import InputError
from attrib.models.outside import load_factory
from attrib.models.several import models_of

NET = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("argued", "ends", "ours", "beside", "heapq"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


def test_the_users_code_sees_no_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["attrib", "span", "--json"])
    parse = "import argparse\np = argparse.ArgumentParser()\np.add_argument('width', nargs='?', type=int)\n"
    write(folder, "argued", parse + "args = p.parse_args()\nassert args.width is None\n" + NET)
    load_factory("argued:build")
    assert sys.argv == ["attrib", "span", "--json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--root', required=True)\np.parse_args()\n",
            r"importing ends ended the program \(ends.py: error: the following arguments are required: --root\)",
        ),
        (
            "import sys\nsys.exit('no GPU')\n",
            r"importing ends ended the program \(sys.exit\('no GPU'\) in .*ends.py, line 2\)",
        ),
        (
            "def build():\n    raise SystemExit(3)\n",
            r"calling it ended the program \(sys.exit\(3\) in .*ends.py, line 2\)",
        ),
        # A library that fails is no help: named is the line that calls it.
        (
            "import json\n\ndef build():\n    json.loads('{')\n",
            r"calling it failed: JSONDecodeError: .*ends.py, line 4$",
        ),
        ("x = 1\ny = z\n", r"cannot import ends: NameError: name 'z' is not defined in .*ends.py, line 2$"),
    ],
)
def test_code_that_fails_or_ends_the_program(
    text: str, words: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, "ends", text)
    with pytest.raises(InputError, match=words) as caught:
        load_factory("ends:build")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert "ends" not in sys.modules or "calling" in words


def test_the_folder_comes_first_for_the_factory_and_last_for_all_others(folder: Path) -> None:
    write(folder, "heapq", "raise ImportError('mine')\n")
    write(folder, "beside", "WIDTH = 3072\n")
    write(folder, "ours", "import heapq\nfrom beside import WIDTH\nheapq.heappush([], WIDTH)\n" + NET)
    load_factory("ours:build")


SPEAKS = """
from torch import nn
print("imported")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        print("made")
        self.fc = nn.Linear(3072, 10)
    def forward(self, x):
        print("ran")
        return self.fc(x.flatten(1))
"""


@pytest.mark.parametrize(
    "start", [("-P", "-c", "from attrib.cli import main; main()"), ("-m", "attrib"), ("-m", "attrib.cli")], ids=" ".join
)
def test_a_model_that_prints_leaves_json_alone(start: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "speaks", SPEAKS)
    for name in ("secrets", "queue", "torch"):  # which numpy, pydantic and we import
        write(tmp_path, name, "raise ImportError('not mine')\n")
    command = [sys.executable, *start]
    given = ["span", "--model", "x=speaks:Net", "--data", "glyphs", "--limit", "3", "--map", "gradient", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["name"] == "x"
    assert {"imported", "made", "ran"} <= set(done.stderr.split())


class Wide(nn.Sequential):
    def __init__(self, width: int = 8) -> None:
        super().__init__(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def build() -> nn.Module:
    return Wide()


@pytest.mark.parametrize(
    ("factory", "name"),
    [(build, "test_factories.build"), (Wide, "test_factories.Wide"), (partial(Wide, 8), "test_factories.Wide")],
)
def test_what_makes_a_module_is_a_factory(factory: Callable[[], nn.Module], name: str, tmp_path: Path) -> None:
    nets = [Wide(), Wide()]
    files = [tmp_path / f"{seed}.pt" for seed in range(2)]
    for net, file in zip(nets, files, strict=True):
        torch.save(net.state_dict(), file)
    assert attrib.model(factory, weights=files[0]).name.endswith(name)
    seeds = attrib.model(factory, weights=files, name="mine")
    image = torch.rand(2, 3, 8, 8)
    for net, seed in zip(nets, seeds, strict=True):
        assert torch.equal(seed.opened_module(image), net(image))
        assert seed.identity()["checkpoint"].endswith(name)
    for given, labels in (
        (factory, [attrib.model(factory).name]), ({"m": factory}, ["m"]), ({"m": [factory, Wide()]}, ["m/0", "m/1"]),
        ([factory, Wide()], [attrib.model(factory).name, "Wide"]),
    ):  # fmt: skip
        assert [model.label for model in models_of(given, device="cpu")] == labels


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (dict, "model builtins.dict: expected it to return an nn.Module, got dict"),
        (partial(nn.Linear, 2), r"model torch.nn.modules.linear.Linear: calling it failed: TypeError: "),
        (partial(sys.exit, 3), r"calling it ended the program \(sys.exit\(3\)\)"),
    ],
)
def test_a_factory_that_makes_no_module(factory: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(InputError, match=words):
        attrib.model(factory)


def test_seeds_are_not_loaded_into_one_module(folder: Path) -> None:
    write(folder, "ours", NET + "net = build()")
    network = Wide()
    for seed, each in enumerate((network, Wide())):
        torch.save(each.state_dict(), folder / f"{seed}.pt")
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).state_dict(), folder / f"flat{seed}.pt")
    with pytest.raises(InputError, match="one module again and again"):
        attrib.model(lambda: network, weights=["0.pt", "1.pt"])
    with pytest.raises(InputError, match="ours:net gives one module again and again"):
        attrib.model("ours:net", weights=["flat0.pt", "flat1.pt"])
