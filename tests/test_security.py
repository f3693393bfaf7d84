"""Nothing that is read from a file is unpickled, since a pickle can run code."""

from __future__ import annotations

import ast

from tests.conftest import REPO

SOURCES = sorted([*(REPO / "dist_ft").rglob("*.py"), *(REPO / "food5").glob("*.py")])
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
METHODS = {"load_states", "set_states", "full_load", "unsafe_load"}  # of MXNet's Trainer, of yaml


def unpickling(source: str) -> list[str]:
    """Imports and calls in a program that may unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            is_false = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if is_false else [node.arg]
    return found


def test_nothing_is_unpickled():
    assert {str(file): names for file in SOURCES if (names := unpickling(file.read_text()))} == {}


def test_unpickling_is_detected():
    for line in (
        *("import pickle", "from cloudpickle import loads", "trainer.load_states('x')"),
        *("np.load('x', allow_pickle=True)", "np.load('x', allow_pickle=a)", "yaml.full_load(x)"),
    ):
        assert unpickling(line), line
    assert unpickling("import json; np.load(x, allow_pickle=False)") == []
