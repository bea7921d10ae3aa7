"""Campaign files: what is read from them, and how each mistake is named."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.budget import Budget
from search_space.errors import ConfigError
from tuner.config import (
    DTYPES,
    ENGINES,
    KINDS,
    SAMPLERS,
    CampaignConfig,
    ConfirmConfig,
    CostModelConfig,
    ModelConfig,
    SearchConfig,
    load_config,
    parse_config,
)
from tuner.config_values import PRESETS, duration
from tuner.sweep import load_sweep

ROOT = Path(__file__).resolve().parents[2]
SHORTEST: dict[str, Any] = {
    "campaign": "trial",
    "model": {"id": "m", "factory": "package.module:function"},
    "seq_lens": [128],
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The shortest campaign with one (dotted) key set."""
    data = {**SHORTEST, "model": dict(SHORTEST["model"])}
    place: dict[str, Any] = data
    *parents, last = key.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return data


def without(key: str) -> dict[str, Any]:
    data = changed(key, None)
    place = data
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    del place[last]
    return data


def parsed(key: str, value: Any) -> Any:
    """What a key's value becomes."""
    found: Any = parse_config(changed(key, value), ROOT)
    for name in key.split("."):
        found = getattr(found, name)
    return found


def write(folder: Path, text: str) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_campaigns_of_the_repository_load(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    told = {entry["model"]["id"]: entry for entry in ({**data, **one} for one in _entries(data))}
    found = {config.model.id: config for config in load_sweep(path)}
    assert found.keys() == told.keys()
    for name, config in found.items():
        entry = told[name]
        assert config.campaign == data["campaign"]
        assert config.seq_lens == tuple(entry["seq_lens"])
        assert config.model.kwargs == entry["model"]["kwargs"]
        for section in ("search", "confirm"):
            for key, value in entry.get(section, {}).items():
                assert getattr(getattr(config, section), key) == value
        assert config.folder == ROOT / "configs"


def _entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = data.get("sweep", [{}])
    return entries


def test_there_are_campaigns_in_the_repository() -> None:
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} >= {
        "quickstart", "vit", "overnight",
    }  # fmt: skip


def test_defaults_fill_what_is_not_said() -> None:
    assert parse_config(SHORTEST, ROOT) == CampaignConfig(
        campaign="trial",
        model=ModelConfig("m", "package.module:function", {}, "float32"),
        seq_lens=(128,),
        device="auto",
        budgets=(Budget(fraction=0.5), Budget(fraction=0.2), Budget()),
        search=SearchConfig(),
        cost_model=CostModelConfig(),
        confirm=ConfirmConfig(),
        output=Path("runs/trial"),
        plans=Path("plans"),
        folder=ROOT,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_what_is_not_said(name: str) -> None:
    config = parse_config({**SHORTEST, "preset": name, "limits": {"runs": 7}}, ROOT)
    assert config.preset == name
    assert config.limits.runs == 7
    assert config.limits.wall_s == duration("", PRESETS[name]["limits"]["wall_s"])
    own = {**SHORTEST, "preset": name, "search": {"rounds": 9}, "limits": {"wall_s": None}}
    config = parse_config(own, ROOT)
    assert (config.search.rounds, config.limits.wall_s) == (9, None)


def test_presets_ask_for_more_from_quick_to_overnight() -> None:
    quick, standard, overnight = (
        parse_config({**SHORTEST, "preset": name}, ROOT)
        for name in ("quick", "standard", "overnight")
    )
    for less, more in ((quick, standard), (standard, overnight)):
        assert less.search.n_trials < more.search.n_trials
        assert less.confirm.top_k < more.confirm.top_k
        assert less.limits.wall_s is not None and more.limits.wall_s is not None
        assert less.limits.wall_s < more.limits.wall_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("2d", 172800), (12.5, 12.5)],
)
def test_a_duration_may_take_any_form(text: Any, seconds: float) -> None:
    assert parsed("limits.wall_s", text) == seconds


def test_a_section_may_be_blank(tmp_path: Path) -> None:
    text = yaml.safe_dump(SHORTEST) + "search:\nconfirm:\n"
    config = load_config(write(tmp_path, text))
    assert (config.search, config.confirm) == (SearchConfig(), ConfirmConfig())


def test_a_configuration_is_frozen() -> None:
    config = parse_config(SHORTEST, ROOT)
    with pytest.raises(FrozenInstanceError):
        config.device = "cpu"  # type: ignore[misc]


NOT_TEXT: tuple[Any, ...] = ("", "  ", 3, True, None, ["a"], {"a": 1})
NOT_COUNT: tuple[Any, ...] = (0, -1, 1.5, 2.0, "3", True, None, [1])
NOT_WHOLE: tuple[Any, ...] = (-1, 0.5, "0", False, None, [])
NOT_AMOUNT: tuple[Any, ...] = (
    -1, -0.1, "many", "", "-0.5", "nan", float("nan"), float("inf"), "inf", True, None, [1.0],
)  # fmt: skip
NOT_DURATION: tuple[Any, ...] = (
    0, -1, "", "h", "8 hours", "1.5h", "0s", "30m1h", float("nan"), float("inf"), True, [1],
)  # fmt: skip
NOT_SECTION: tuple[Any, ...] = (3, "tpe", ["sampler"], True)

WRONG: dict[str, tuple[Any, ...]] = {
    "campaign": NOT_TEXT,
    "model": NOT_SECTION,
    "model.id": NOT_TEXT,
    "model.factory": NOT_TEXT,
    "model.kwargs": (3, "layers=4", ["layers"], {1: 2}),
    "model.targets": (3, [], [1], "", " ", [""], {"a": 1}, True),
    "model.dtype": ("float", "int8", "Float32", 32, None, ["float32"]),
    "seq_lens": ([], 128, "128", None, {"a": 1}, [0], [-1], [128.0], ["128"], [True], [[128]]),
    "device": ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU", "", 0, None, ["cpu"]),
    "budgets": (
        [], 0.5, "min", None, {"a": 1}, [0], [-0.5], [1.5], ["max"], ["5 PiB"], [True], [None],
        [[0.5]], ["0.2B"], [float("nan")], [float("inf")], [-8], ["-8GiB"],
    ),
    "search": NOT_SECTION,
    "search.sampler": ("TPE", "grid", 1, None, ["tpe"]),
    "search.n_trials": NOT_COUNT,
    "search.seed": NOT_WHOLE,
    "search.rounds": NOT_COUNT,
    "cost_model": NOT_SECTION,
    "cost_model.kind": ("best", "quadratic", 1, None),
    "cost_model.start": (3, "", True, ["model.json.gz"]),
    "cost_model.timings_s": NOT_AMOUNT,
    "confirm": NOT_SECTION,
    "confirm.top_k": NOT_COUNT,
    "confirm.warmup": NOT_WHOLE,
    "confirm.repeats": NOT_COUNT,
    "confirm.timeout_s": NOT_AMOUNT,
    "confirm.rtol": NOT_AMOUNT,
    "confirm.atol": NOT_AMOUNT,
    "confirm.interval": NOT_AMOUNT,
    "confirm.wait_s": NOT_AMOUNT,
    "preset": ("fast", "Quick", 1, True, ["quick"]),
    "limits": NOT_SECTION,
    "limits.wall_s": NOT_DURATION,
    "limits.device_s": NOT_DURATION,
    "limits.runs": (0, -1, 1.5, "3", True, [1]),
    "engine": NOT_SECTION,
    "engine.kind": ("Ray", "slurm", 1, None),
    "engine.slots": NOT_WHOLE,
    "engine.address": ("", 3, True, ["auto"]),
    "engine.host_memory_bytes": (0, -1, 0.5, "many", "min", True, [1]),
    "kernels": NOT_SECTION,
    "kernels.attention": ("SDPA", "flash", 1, None, ["auto"]),
    "compile": (3, "fast", ["bodies"], {1: 2}, {"bodies": "yes"}, {"stretches": 1}),
    "output": (3, "", True, ["runs"]),
    "plans": NOT_TEXT,
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_named_with_its_key(key: str) -> None:
    for value in WRONG[key]:
        with pytest.raises(ConfigError) as caught:
            parse_config(changed(key, value), ROOT)
        message = str(caught.value)
        # a list's error names the place in it: seq_lens[0]
        assert message.startswith((f"{key} ", f"{key}[0]")), f"{value!r}: {message}"
        inner = value[0] if isinstance(value, list) and len(value) == 1 else value
        assert str(inner) in message


def test_every_key_has_wrong_values_above() -> None:
    def keys(value: Any, prefix: str = "") -> set[str]:
        found = set()
        for field in fields(value):
            inner = getattr(value, field.name)
            found.add(prefix + field.name)
            if is_dataclass(inner):
                found |= keys(inner, f"{prefix}{field.name}.")
        return found

    # folder is no key: it is where the file stands
    assert keys(parse_config(SHORTEST, ROOT)) - {"folder"} == set(WRONG)


@pytest.mark.parametrize("key", ["campaign", "model", "model.id", "model.factory", "seq_lens"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"the key {key} is missing"):
        parse_config(without(key), ROOT)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("campain", "campaign"),
        ("seq_len", "seq_lens"),
        ("budget", "budgets"),
        ("serch", "search"),
        ("search.n_trial", "search.n_trials"),
        ("search.samplr", "search.sampler"),
        ("model.factori", "model.factory"),
        ("model.d_type", "model.dtype"),
        ("confirm.time_out_s", "confirm.timeout_s"),
        ("cost_model.timing", "cost_model.timings_s"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(key, 1), ROOT)
    assert str(caught.value) == f"unknown key {key}; did you mean {nearest}?"


@pytest.mark.parametrize(
    ("key", "valid"), [("zzz", "seq_lens"), ("search.zzz", "n_trials"), ("confirm.qqq", "top_k")]
)
def test_a_key_like_no_other_lists_the_valid_ones(key: str, valid: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key {key}; valid are .*{valid}"):
        parse_config(changed(key, 1), ROOT)


def test_a_key_that_is_no_text_is_unknown() -> None:
    with pytest.raises(ConfigError, match="unknown key 5"):
        parse_config({**SHORTEST, 5: 1}, ROOT)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("search.sampler", "nsga", "nsga2"),
        ("cost_model.kind", "rofline", "roofline"),
        ("model.dtype", "bfloat", "bfloat16"),
    ],
)
def test_a_wrong_word_names_the_nearest(key: str, value: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        parse_config(changed(key, value), ROOT)


def test_a_length_may_stand_once() -> None:
    with pytest.raises(ConfigError, match=r"seq_lens names a length twice: \[64, 128, 64\]"):
        parse_config(changed("seq_lens", [64, 128, 64]), ROOT)


def test_the_place_of_a_wrong_item_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^seq_lens\[2\] .*got -5"):
        parse_config(changed("seq_lens", [64, 128, -5]), ROOT)
    with pytest.raises(ConfigError, match=r"^budgets\[1\]: .*'lots'"):
        parse_config(changed("budgets", [0.5, "lots"]), ROOT)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.3", Budget(fraction=0.3)),
        ("1.0", Budget(fraction=1.0)),
        ("1", Budget(fraction=1.0)),
        ("'0.25'", Budget(fraction=0.25)),
        (".5", Budget(fraction=0.5)),
        ("2147483648", Budget(absolute_bytes=2**31)),
        ("'4096'", Budget(absolute_bytes=4096)),
        ("8GiB", Budget(absolute_bytes=8 * 2**30)),
        ("1.5 GiB", Budget(absolute_bytes=3 * 2**29)),
        ("500MB", Budget(absolute_bytes=500_000_000)),
        ("64kib", Budget(absolute_bytes=65536)),
        ("100B", Budget(absolute_bytes=100)),
        ("min", Budget()),
        ("MIN", Budget()),
    ],
)
def test_a_budget_may_take_any_form(text: str, budget: Budget, tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(SHORTEST) + f"budgets: [{text}]\n")
    assert load_config(path).budgets == (budget,)


def test_a_budget_of_one_byte_stays_one() -> None:
    config = parse_config(changed("budgets", ["1B"]), ROOT)
    assert config.budgets == (Budget(absolute_bytes=1),)
    assert parse_config(config.plain(), ROOT) == config


def test_equal_budgets_count_once() -> None:
    found = parsed("budgets", [0.5, "0.5", "1KiB", 1024, "min", "min"])
    assert found == (Budget(fraction=0.5), Budget(absolute_bytes=1024), Budget())


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-5", 1e-5), ("1E3", 1e3), ("1.0e-5", 1e-5), ("0", 0.0), ("3", 3.0), ("'2.5'", 2.5)],
)
def test_a_number_may_be_written_in_any_way(text: str, number: float, tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(SHORTEST) + f"confirm: {{rtol: {text}}}\n")
    found = load_config(path).confirm.rtol
    assert found == number
    assert isinstance(found, float)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:13"])
def test_a_device_may_have_a_number(device: str) -> None:
    assert parsed("device", device) == device


@pytest.mark.parametrize(
    ("key", "options"),
    [("search.sampler", SAMPLERS), ("cost_model.kind", KINDS), ("model.dtype", DTYPES)],
)
def test_every_option_is_taken(key: str, options: tuple[str, ...]) -> None:
    assert [parsed(key, option) for option in options] == list(options)


def test_the_home_folder_may_be_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed("output", "~/runs") == tmp_path / "runs"
    assert parsed("plans", "~/plans") == tmp_path / "plans"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("campaign: a\nmodel: {id: m\nseq_lens: [1]\n", 3),
        ("campaign: a\n\tmodel: b\n", 2),
        ("campaign: a\nmodel: *nothing\n", 2),
        ("campaign: 'a\nb: c\n", 3),
        ("a: b\nc: d: e\n", 2),
        ("campaign: !!python/name:os.system x\n", 1),
        ("campaign: a\nseq_lens: [8]\nseq_lens: [16]\n", 3),
        ("campaign: a\nsearch: {seed: 1, seed: 2}\n", 2),
    ],
)
def test_what_is_no_yaml_names_file_and_line(text: str, line: int, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}, line {line} is not valid YAML: ")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "3\n"])
def test_a_file_must_hold_a_mapping(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="must hold a mapping") as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_wrong_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(changed("search.rounds", 0)))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: search.rounds must be")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"campaign: \xff\xfe\n")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_config(path)
        assert str(path) in str(caught.value)


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    data = changed("search.n_trials", 40)
    return write(tmp_path, yaml.safe_dump(data))


def test_overrides_change_single_keys(campaign: Path) -> None:
    config = load_config(
        campaign,
        [
            "search.n_trials=50",
            "seq_lens=[64, 96]",
            "budgets=[0.5, min]",
            "model.kwargs.layers=3",
            "model.kwargs.attention=sdpa",
            "confirm.atol=1e-6",
            "device = cuda:1",
            "campaign=other",
        ],
    )
    assert config.search == SearchConfig(n_trials=50)
    assert config.seq_lens == (64, 96)
    assert config.budgets == (Budget(fraction=0.5), Budget())
    assert config.model.kwargs == {"layers": 3, "attention": "sdpa"}
    assert config.confirm.atol == 1e-6
    assert config.device == "cuda:1"
    # what is derived from a key follows it
    assert (config.campaign, config.output) == ("other", Path("runs/other"))


def test_the_last_override_wins(campaign: Path) -> None:
    assert load_config(campaign, ["search.seed=1", "search.seed=2"]).search.seed == 2


def test_an_override_may_hold_equals_signs(campaign: Path) -> None:
    found = load_config(campaign, ["model.kwargs.text='a=b=c'"])
    assert found.model.kwargs == {"text": "a=b=c"}


@pytest.mark.parametrize("override", ["search.n_trials", "", "=3", " =3", "search.n_trials 5"])
def test_an_override_of_bad_form_is_refused(override: str, campaign: Path) -> None:
    with pytest.raises(ConfigError, match="key=value") as caught:
        load_config(campaign, [override])
    assert repr(override) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.n_trials=many", "search.n_trials must be"),
        ("search.n_trials=", "search.n_trials must be"),
        ("search.n_trails=5", "did you mean search.n_trials"),
        ("sarch.n_trials=5", "did you mean search"),
        ("campaign.name=5", "campaign is not a section"),
        ("search.n_trials.more=5", "n_trials is not a section"),
        ("seq_lens=[64", "is not valid YAML"),
        ("search..seed=5", "unknown key"),
        ("search.=5", "unknown key"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str, campaign: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(campaign, [override])
    assert says in str(caught.value)


def test_an_override_may_fill_a_blank_section(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(SHORTEST) + "search:\n")
    assert load_config(path, ["search.n_trials=5"]).search.n_trials == 5


def test_overrides_leave_the_file_alone(campaign: Path) -> None:
    before = campaign.read_bytes()
    load_config(campaign, ["search.n_trials=5"])
    assert campaign.read_bytes() == before


names = st.text("abcdefghij_-.0123456789", min_size=1, max_size=8)
budgets = (
    st.floats(0, 1, exclude_min=True).map(float)
    | st.integers(1000, 2**50)  # fewer bytes need their unit, as below
    | st.just("min")
    | st.integers(2, 9).map(lambda count: f"{count}B")
)
amounts = st.floats(0, 1e9)
kwargs = st.dictionaries(
    names, st.recursive(st.integers() | st.booleans() | names, st.lists, max_leaves=4), max_size=3
)
counts, wholes = st.integers(1, 10**6), st.integers(0, 10**6)
campaigns: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "campaign": names,
        "model": st.fixed_dictionaries(
            {"id": names, "factory": names},
            optional={"kwargs": kwargs, "dtype": st.sampled_from(DTYPES)},
        ),
        "seq_lens": st.lists(counts, min_size=1, max_size=4, unique=True),
    },
    optional={
        "device": st.sampled_from(("auto", "cpu", "cuda", "cuda:3")),
        "budgets": st.lists(budgets, min_size=1, max_size=4),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "sampler": st.sampled_from(SAMPLERS),
                "n_trials": counts,
                "seed": wholes,
                "rounds": counts,
            },
        ),
        "cost_model": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(KINDS), "timings_s": amounts, "start": names | st.none(),
            },
        ),
        "confirm": st.fixed_dictionaries(
            {},
            optional={
                "top_k": counts, "warmup": wholes, "repeats": counts, "timeout_s": amounts,
                "rtol": amounts, "atol": amounts, "interval": amounts, "wait_s": amounts,
            },
        ),
        "preset": st.sampled_from((*PRESETS, None)),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "wall_s": st.floats(1, 1e6) | st.integers(1, 99).map("{}h".format) | st.none(),
                "device_s": counts, "runs": counts,
            },
        ),
        "engine": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(ENGINES), "slots": wholes, "address": names,
                "host_memory_bytes": st.integers(2**20, 2**40) | st.just("2GiB"),
            },
        ),
        "output": names,
        "plans": names,
    },
)  # fmt: skip


@settings(max_examples=100, derandomize=True, deadline=None)
@given(campaigns)
def test_plain_values_are_read_back_as_the_same(data: Mapping[str, Any]) -> None:
    config = parse_config(data, ROOT)
    assert parse_config(config.plain(), ROOT) == config
    # through a campaign file and through the ledger
    assert parse_config(yaml.safe_load(yaml.safe_dump(config.plain())), ROOT) == config
    assert parse_config(json.loads(json.dumps(config.plain())), ROOT) == config


def test_a_date_that_is_none_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("campaign: a\nmodel: {kwargs: {when: 2024-13-45}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML: month must be"):
        load_config(path)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"when": datetime.date(2024, 1, 2)}, r"kwargs.when must be .* got date 2024-01-02"),
        ({"sizes": {1: 2}}, r"kwargs.sizes: names must be texts, got 1"),
        ({"deep": [{"set": {1}}]}, r"kwargs.deep.set must be .* got set"),
    ],
)
def test_arguments_are_what_json_keeps(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(changed("model.kwargs", kwargs), ROOT)


def test_a_seed_is_one_that_samplers_take() -> None:
    assert parse_config(changed("search.seed", 2**32 - 1), ROOT).search.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"search\.seed must be below"):
        parse_config(changed("search.seed", 2**32), ROOT)
