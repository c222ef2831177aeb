"""What would run what it reads is nowhere in `salad/`, but for what is listed here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "salad").rglob("*.py"))
IN_HAND = "takes jobs and gives takes between our own processes, over a socketpair that nobody else has"
PLUGIN = "loads the plug-in that a configuration or a command names: tests/security/test_plugins.py"
ALLOWED = {  # (file, what): why
    ("salad/tts/workers.py", "import multiprocessing.connection"): IN_HAND,
    ("salad/tts/worker.py", "import multiprocessing.connection"): IN_HAND,
    ("salad/pipeline/compute/processes.py", "import multiprocessing.connection"): IN_HAND,
    ("salad/pipeline/compute/worker.py", "import multiprocessing.connection"): IN_HAND,
    ("salad/pipeline/compute/on_dask.py", "import multiprocessing"): "starts its resource tracker, before a signal is blocked",
    ("salad/flows/serve.py", "import multiprocessing"): "looks up the processes of flow runs, to end them",
    ("salad/plugins.py", "importlib.import_module"): PLUGIN,
    ("salad/plugins.py", "importlib.util.spec_from_file_location"): PLUGIN,
}

UNPICKLE = ("pickle", "_pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle", "multiprocessing", "code", "runpy")
RUNS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execl", "os.spawnl", "subprocess.getoutput",
    "subprocess.getstatusoutput", "importlib.import_module", "importlib.util.spec_from_file_location", "pandas.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.UnsafeLoader", "yaml.FullLoader",
    "faiss.read_index", "torch.hub.load", "torch.jit.load", "tempfile.mktemp",
}  # fmt: skip
WANTS = {  # a call of this must have that argument, with that very value
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "jinja2.Environment": ("autoescape", True),
}
NEVER = {
    ("shell", True),
    ("allow_pickle", True),
    ("weights_only", False),
    ("trust_remote_code", True),
    ("use_safetensors", False),
}


class Found(ast.NodeVisitor):
    """Dotted names of what a module imports and uses, whatever it calls them itself."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.faults: list[tuple[int, str]] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
            self._imported(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        self._imported(node, node.module or "")

    def _imported(self, node: ast.AST, module: str) -> None:
        if module.partition(".")[0] in UNPICKLE:
            self.faults.append((node.lineno, f"import {module}"))  # type: ignore[attr-defined]

    def visit_Call(self, node: ast.Call) -> None:
        called = self._dotted(node.func)
        if called in RUNS:
            self.faults.append((node.lineno, called))
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if called in WANTS and given.get(WANTS[called][0]) is not WANTS[called][1]:
            self.faults.append((node.lineno, f"{called} without {WANTS[called][0]}={WANTS[called][1]}"))
        self.faults += [(node.lineno, f"{name}={value}") for name, value in given.items() if (name, value) in NEVER]
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if (name := self._dotted(node)) in RUNS and name.startswith("yaml."):
            self.faults.append((node.lineno, name))
        self.generic_visit(node)

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        return f"{self._dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def faults(source: str) -> list[str]:
    found = Found()
    found.visit(ast.parse(source))
    return [what for _, what in sorted(set(found.faults))]


def all_faults() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        yield from ((name, what) for what in faults(path.read_text(encoding="utf-8")))


def test_nothing_runs_what_it_reads() -> None:
    assert len(SOURCES) > 150
    assert {f"{name}: {what}" for name, what in all_faults() if (name, what) not in ALLOWED} == set()


def test_every_exception_is_still_one() -> None:
    assert set(all_faults()) >= set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "import pickle"),
        ("from joblib import load", "import joblib"),
        ("import multiprocessing.connection as c", "import multiprocessing.connection"),
        ("import torch as t\nt.load(p)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(p, mmap_mode='r')", "numpy.load without allow_pickle=False"),
        ("from numpy import load\nload(p, allow_pickle=flag)", "numpy.load without allow_pickle=False"),
        ("import yaml\nyaml.load(f, yaml.SafeLoader)", "yaml.load"),
        ("import subprocess\nsubprocess.run(c, shell=True)", "shell=True"),
        ("from os import system as s\ns(c)", "os.system"),
        ("eval(x)", "eval"),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", "trust_remote_code=True"),
        ("from jinja2 import Environment\nEnvironment(loader=x)", "jinja2.Environment without autoescape=True"),
    ],
)
def test_each_kind_is_found(source: str, what: str) -> None:
    assert what in faults(source)


def test_what_looks_alike_is_none() -> None:
    assert faults("student.eval()\nre.compile(x)\nimport numpy as np\nnp.load(p, allow_pickle=False)\nyaml.safe_load(f)") == []


def test_nothing_listens_beyond_this_machine() -> None:
    """What SALAD starts itself; a cluster that the user starts listens where the user says."""
    texts = [*SOURCES, *(ROOT / "configs").rglob("*.yaml"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    anywhere = [f"{p}" for p in texts if any(w in p.read_text(encoding="utf-8") for w in ("0.0.0.0", "INADDR_ANY"))]
    assert anywhere == []
