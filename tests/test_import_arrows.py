"""Who may import whom, read from the sources of all packages."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("search_space", "cost_models", "tuner", "experiments")

# package -> ours that it may import, besides itself
ARROWS = {
    "search_space": set[str](),
    "cost_models": {"search_space"},
    "tuner": {"search_space", "cost_models"},
    "experiments": {"search_space", "cost_models", "tuner"},
}


@dataclass(frozen=True)
class Import:
    """One import: the importing module, what it names, and whether it runs at the module's own."""

    module: str
    target: str
    at_top: bool

    def names(self, *packages: str) -> bool:
        """Whether it is of one of these packages, or of what is in them."""
        return any(
            self.target == package or self.target.startswith(f"{package}.") for package in packages
        )


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """All imports of a source, wherever they stand; ``from a import b`` names both a and a.b."""
    tree = ast.parse(source)
    inside = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - 1 if is_package else node.level
                parents = module.split(".")[: len(module.split(".")) - up]
                base = ".".join([*parents, base] if base else parents)
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for target in targets:
            yield Import(module, target, id(node) not in inside)


IMPORTS = [
    found
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    for found in _imports(
        path.read_text(encoding="utf-8"), _module_name(path), path.name == "__init__.py"
    )
]


def breaches(by: str, *of: str, but: tuple[str, ...] = ()) -> list[Import]:
    """Imports of these packages by modules of a package, other than those of ``but``."""
    return [
        found
        for found in IMPORTS
        if (found.module == by or found.module.startswith(f"{by}."))
        and found.module not in but
        and found.names(*of)
    ]


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a.b as c
from d import e
from . import f
from ..g import h
if True:
    import i
def function():
    import j
class K:
    def method(self):
        from k.l import m
"""
    found = list(_imports(source, "tuner.measure.cpu", is_package=False))
    assert {item.target for item in found if item.at_top} == {
        "a.b", "d", "d.e", "tuner.measure", "tuner.measure.f", "tuner.g", "tuner.g.h", "i",
    }  # fmt: skip
    assert {item.target for item in found if not item.at_top} == {"j", "k.l", "k.l.m"}
    inside = list(_imports("from . import f", "tuner.measure", is_package=True))
    assert {item.target for item in inside} == {"tuner.measure", "tuner.measure.f"}


def test_every_package_has_been_read() -> None:
    for package in PACKAGES:
        assert any(found.module.startswith(package) for found in IMPORTS)
    # what the rules below are about is there, or they would hold for nothing
    assert breaches("tuner", "search_space")
    assert breaches("cost_models.regressors", "sklearn")
    assert breaches("search_space.capture", "torch")
    assert breaches("tuner.search.study", "optuna")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    above = set(PACKAGES) - ARROWS[package] - {package}
    assert not breaches(package, *above, "tests", "conftest", "tiny")


def test_only_the_study_and_its_export_import_optuna() -> None:
    allowed = ("tuner.search.study", "tuner.study_export")
    assert not [
        found for found in IMPORTS if found.names("optuna") and found.module not in allowed
    ]


def test_scikit_learn_is_imported_by_the_regressors_when_they_are_fitted() -> None:
    found = [item for item in IMPORTS if item.names("sklearn")]
    assert {item.module for item in found} == {"cost_models.regressors"}
    assert not [item for item in found if item.at_top]


def test_search_space_needs_torch_only_where_models_are_met() -> None:
    allowed = tuple(
        f"search_space.{name}"
            for name in (
            "capture", "capture_traits", "probe", "torch_ops", "causal_attention", "eager_peak",
            "called_op", "scatters",
            "cuda_device",
        )
    )
    assert not breaches("search_space", "torch", "transformers", "diffusers", but=allowed)


def test_cost_models_never_import_torch() -> None:
    assert not breaches("cost_models", "torch")


def test_measuring_knows_callables_and_no_plans() -> None:
    assert not breaches("tuner.measure", "search_space.plan", "tuner.runtime")


LIGHT = """
import sys
import search_space.candidates, search_space.space, search_space.liveness
import cost_models.base, cost_models.create, cost_models.select, cost_models.macro_micro
import tuner, tuner.database, tuner.search.propose
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "optuna", "sklearn"}))
"""


def test_search_cost_models_and_database_load_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
