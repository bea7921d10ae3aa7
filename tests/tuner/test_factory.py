"""Factories: where they are found, what they may give, and what is said when they fail."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search_space.errors import ConfigError
from tuner.config import ModelConfig
from tuner.factory import Subject, build, load_factory

SOURCE = """
import torch

NOT_A_FUNCTION = 3
WHO = {who!r}


def make(width=4, inputs="args and kwargs"):
    model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.BatchNorm1d(width))
    model.train()
    floats, wholes = torch.ones(2, width), torch.arange(2)

    def give(length):
        if inputs == "failing":
            raise LookupError("no such length")
        return {{
            "args and kwargs": (
                (floats[:1].expand(length, -1), wholes), {{"flag": True, "x": floats}}
            ),
            "tuple": (floats, wholes),
            "tuple of one": (floats,),
            "tuple and dict that is none": (floats, {{"inner": wholes}}),
            "dict": {{"x": floats, "n": length}},
            "tensor": floats,
            "half": floats.half(),
            "nested": (((floats, [wholes]), {{"deep": {{"x": floats}}}}), {{}}),
            "list": [floats],
            "nothing": None,
        }}[inputs]

    return model, give


def make_whole_model():
    return torch.nn.Embedding(4, 4).to(torch.float64), lambda length: torch.arange(length)


def fail():
    raise RuntimeError("weights are missing")


def give_model():
    return torch.nn.Identity()


def give_list():
    return [torch.nn.Identity(), lambda length: torch.ones(length)]


def give_three():
    return torch.nn.Identity(), lambda length: torch.ones(length), None


def give_no_model():
    return torch.nn.Identity, lambda length: torch.ones(length)


def give_no_inputs():
    return torch.nn.Identity(), torch.ones(3)
"""

COUNT = itertools.count()


@pytest.fixture(autouse=True)
def _restored_imports() -> Iterator[None]:
    """Loading factories adds modules, and the current folder to the path."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        # torch's own lazy imports stay: they cannot be loaded twice
        if name.startswith(("autochunk_factory_", "made_package_")):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A campaign's folder with ``models/made.py`` in it, which is not the current one."""
    found = tmp_path / "campaigns"
    write(found / "models" / "made.py", who="campaign")
    return found


def write(path: Path, who: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(who=who), encoding="utf-8")
    return path


def who(factory: Any) -> str:
    found: str = factory.__globals__["WHO"]
    return found


def config(function: str = "make", dtype: str = "float32", **kwargs: Any) -> ModelConfig:
    return ModelConfig("made", f"models/made.py:{function}", kwargs, dtype)


def test_a_module_on_the_path_is_found(tmp_path: Path) -> None:
    from experiments.subjects import gpt2

    assert load_factory("experiments.subjects:gpt2", tmp_path) is gpt2


def test_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"made_package_{next(COUNT)}"
    write(tmp_path / "here" / name / "inner.py", who="package")
    monkeypatch.chdir(tmp_path / "here")
    assert who(load_factory(f"{name}.inner:make", tmp_path)) == "package"


def test_a_file_is_found_beside_the_campaign(folder: Path) -> None:
    assert who(load_factory("models/made.py:make", folder)) == "campaign"


def test_a_file_is_found_in_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "models" / "only_here.py", who="here")
    monkeypatch.chdir(tmp_path / "here")
    assert who(load_factory("models/only_here.py:make", folder)) == "here"


def test_the_file_beside_the_campaign_goes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "models" / "made.py", who="here")
    monkeypatch.chdir(tmp_path / "here")
    assert who(load_factory("models/made.py:make", folder)) == "campaign"


def test_a_file_may_be_named_in_full(folder: Path, tmp_path: Path) -> None:
    path = folder / "models" / "made.py"
    assert who(load_factory(f"{path}:make", tmp_path)) == "campaign"


def test_two_files_of_one_name_are_two_modules(folder: Path) -> None:
    write(folder / "other" / "made.py", who="other")
    first = load_factory("models/made.py:make", folder)
    second = load_factory("other/made.py:make", folder)
    assert (who(first), who(second)) == ("campaign", "other")


def test_a_file_may_hold_what_looks_itself_up(folder: Path) -> None:
    # dataclasses of postponed annotations need their module to be known by name
    (folder / "classes.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field\n"
        "@dataclass(kw_only=True)\n"
        "class Made:\n"
        "    n: int = field(default=1)\n",
        encoding="utf-8",
    )
    assert load_factory("classes.py:Made", folder)().n == 1


@pytest.mark.parametrize("name", ["", "make", ":make", "package:", "models/made.py", "a.b.c"])
def test_a_name_of_another_form_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"package\.module:function") as caught:
        load_factory(name, folder)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("models/made.py:mak", "make"),
        ("models/made.py:give_modell", "give_model"),
        ("experiments.subjects:gpt", "gpt2"),
    ],
)
def test_a_wrong_function_names_the_nearest(name: str, near: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        load_factory(name, folder)


def test_a_function_like_no_other_has_no_hint(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no function 'zzzzz'$"):
        load_factory("models/made.py:zzzzz", folder)


def test_what_is_no_function_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no function 'NOT_A_FUNCTION'"):
        load_factory("models/made.py:NOT_A_FUNCTION", folder)


def test_a_missing_file_names_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'models/none\.py'") as caught:
        load_factory("models/none.py:make", folder)
    assert str(folder) in str(caught.value)


def test_a_missing_module_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"ModuleNotFoundError.*no_such_package.*installed"):
        load_factory("no_such_package.inner:make", folder)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_package\n", "ModuleNotFoundError.*no_such_package"),
        ("from torch import no_such_name\n", "ImportError.*no_such_name"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def make(:\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    ],
)
def test_an_error_in_the_users_file_is_told(source: str, says: str, folder: Path) -> None:
    (folder / "broken.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        load_factory("broken.py:make", folder)
    assert "'broken.py:make' cannot be imported" in str(caught.value)
    assert caught.value.__cause__ is not None, "the user's own traceback is kept"


def test_a_failing_factory_is_told_with_its_arguments(folder: Path) -> None:
    with pytest.raises(ConfigError, match="RuntimeError: weights are missing"):
        build(config("fail"), "cpu", folder)
    with pytest.raises(ConfigError, match=r"TypeError.*depth") as caught:
        build(config(depth=3), "cpu", folder)
    assert "{'depth': 3}" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        ("give_model", "Identity"),
        ("give_list", "list"),
        ("give_three", "tuple"),
        ("give_no_model", "tuple"),
        ("give_no_inputs", "tuple"),
    ],
)
def test_a_factory_must_give_a_model_and_inputs(
    function: str, returned: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"must return \(model, inputs\).*returned {returned}$"):
        build(config(function), "cpu", folder)


def test_arguments_reach_the_factory(folder: Path) -> None:
    assert build(config(width=7), "cpu", folder).model[0].in_features == 7  # type: ignore[index]


def test_the_model_is_in_evaluation_mode(folder: Path) -> None:
    model = build(config(), "cpu", folder).model
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_model_is_cast(dtype: str, folder: Path) -> None:
    wanted = getattr(torch, dtype)
    model = build(config(dtype=dtype), "cpu", folder).model
    assert {one.dtype for one in model.parameters()} == {wanted}
    # a count of batches is no float
    assert {one.dtype for one in model.buffers()} == {wanted, torch.int64}
    other = build(config("make_whole_model", dtype), "cpu", folder).model
    assert {one.dtype for one in other.parameters()} == {wanted}


def subject(folder: Path, inputs: str, dtype: str = "float64") -> Subject:
    return build(config(dtype=dtype, inputs=inputs), "cpu", folder)


def dtypes(value: Any) -> Any:
    """Every tensor replaced by its dtype."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.dtype, value)


FLOAT, WHOLE = torch.float64, torch.int64


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("args and kwargs", ((FLOAT, WHOLE), {"flag": True, "x": FLOAT})),
        ("tuple", ((FLOAT, WHOLE), {})),
        ("tuple of one", ((FLOAT,), {})),
        ("tuple and dict that is none", ((FLOAT, {"inner": WHOLE}), {})),
        ("dict", ((), {"x": FLOAT, "n": 3})),
        ("tensor", ((FLOAT,), {})),
        ("half", ((FLOAT,), {})),
        ("nested", (((FLOAT, [WHOLE]), {"deep": {"x": FLOAT}}), {})),
    ],
)
def test_inputs_take_any_form_and_floats_alone_are_cast(
    inputs: str, expected: Any, folder: Path
) -> None:
    assert dtypes(subject(folder, inputs).inputs(3)) == expected


def test_inputs_are_made_for_the_length(folder: Path) -> None:
    inputs = subject(folder, "args and kwargs").inputs
    assert [inputs(length)[0][0].shape[0] for length in (1, 5)] == [1, 5]


@pytest.mark.parametrize(("inputs", "returned"), [("list", "list"), ("nothing", "NoneType")])
def test_inputs_of_another_kind_are_refused(inputs: str, returned: str, folder: Path) -> None:
    made = subject(folder, inputs)
    with pytest.raises(ConfigError, match=f"must return .*it returned {returned}$"):
        made.inputs(3)


def test_failing_inputs_name_the_length(folder: Path) -> None:
    made = subject(folder, "failing")
    with pytest.raises(ConfigError, match=r"inputs\(37\).*LookupError.*no such length"):
        made.inputs(37)


def test_a_built_subject_runs(folder: Path) -> None:
    made = subject(folder, "tensor", "bfloat16")
    args, kwargs = made.inputs(2)
    with torch.no_grad():
        found = made.model(*args, **kwargs)
    assert found.shape == (2, 4)
    assert found.dtype == torch.bfloat16
