"""The commands around cost models: ``autochunk profile`` and ``autochunk model card | fit``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search_space.errors import ConfigError

AddSet = Callable[[argparse.ArgumentParser], None]


def add_model_commands(
    commands: Any, shared: argparse.ArgumentParser, add_set: AddSet
) -> None:
    """Add the commands to the command line's parser.

    Args:
        commands: what ``add_subparsers`` gave.
        shared: options of every command.
        add_set: adds ``--set`` to a command.
    """
    profile = commands.add_parser(
        "profile", parents=[shared], help="time regions alone and fit a cost model"
    )
    profile.add_argument("config", type=Path, metavar="CONFIG", help="campaign YAML")
    profile.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="time a length may take, about"
    )
    profile.add_argument(
        "--output", type=Path, metavar="PATH", help="model file; else in the campaign's output"
    )
    add_set(profile)
    profile.set_defaults(command=_profile)

    model = commands.add_parser("model", help="look at a cost model, or fit one")
    actions = model.add_subparsers(required=True, metavar="ACTION")
    card = actions.add_parser("card", parents=[shared], help="how far a model can be trusted")
    card.add_argument("path", type=Path, metavar="PATH", help="a model file")
    card.set_defaults(command=_card)
    fit = actions.add_parser("fit", parents=[shared], help="fit a model to ledgers' timings")
    fit.add_argument("ledgers", type=Path, nargs="+", metavar="LEDGER", help="ledger.jsonl files")
    fit.add_argument("--output", type=Path, required=True, metavar="PATH", help="model file")
    fit.add_argument("--kind", default="auto", metavar="KIND", help="as in cost_model.kind")
    fit.set_defaults(command=_fit)


def _profile(options: argparse.Namespace) -> int:
    from tuner.config import load_config
    from tuner.model_files import MODEL_FILE
    from tuner.profile import run_profile
    from tuner.terminal import Terminal, make_console

    if not options.seconds > 0:
        raise ConfigError(f"--seconds must be more than 0, got {options.seconds:g}")
    config = load_config(options.config, options.overrides)
    with Terminal(make_console(stderr=True)) as progress:
        found = run_profile(config, options.seconds, progress)
    path, kind = options.output or config.output / MODEL_FILE, config.cost_model.kind
    _write(path, found.samples, found.baselines, found.device, found.ceilings, kind)
    lost = f"; {found.failed} classes could not be timed" if found.failed else ""
    print(f"every timing is in {config.output / 'ledger.jsonl'}{lost}")
    return 0


def _fit(options: argparse.Namespace) -> int:
    from tuner.config import KINDS
    from tuner.model_files import read_ledgers

    if options.kind not in KINDS:
        raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {options.kind!r}")
    _write(options.output, *read_ledgers(options.ledgers), options.kind)
    return 0


def _write(
    path: Path, samples: Any, baselines: Any, device: str, ceilings: Any, kind: str
) -> None:
    """Fit, write, and show the card."""
    from tuner.card_tables import card_pages, card_summary
    from tuner.model_files import make_model
    from tuner.terminal import make_console

    stored, verdict = make_model(path, samples, baselines, device, ceilings, kind)
    console = make_console()
    assert stored.card is not None
    for page in card_pages(stored.card):
        console.print(page.table())
    console.print(card_summary(stored.card), highlight=False, soft_wrap=True)
    console.print(verdict.text, highlight=False, soft_wrap=True)
    console.print(f"cost model written to {path}", highlight=False, soft_wrap=True)


def _card(options: argparse.Namespace) -> int:
    from cost_models.stored import read_model
    from tuner.card_tables import card_pages, card_summary
    from tuner.terminal import make_console

    stored = read_model(options.path)
    console = make_console()
    console.print(
        f"{options.path}: {stored.model.kind}, {len(stored.samples)} samples", highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    if stored.card is None:
        console.print("nothing was judged: too few timings")
        return 0
    for page in card_pages(stored.card):
        console.print(page.table())
    console.print(card_summary(stored.card), highlight=False, soft_wrap=True)
    return 0
