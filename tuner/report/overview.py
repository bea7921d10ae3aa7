"""The reports of a run: of one campaign, or of all campaigns of a sweep with a page over them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from search_space.errors import ConfigError
from tuner.ledger import read_ledger
from tuner.report.page import Written, write_report
from tuner.report.read import LEDGER, read_run
from tuner.report.template import fill


def write_reports(path: Path, output: Path | None = None) -> Written:
    """Write the report of a campaign, or of a sweep: a page a campaign, and one over all.

    Args:
        path: the output folder of a campaign or sweep, or a ledger.
        output: the page's path, as for :func:`~tuner.report.page.write_report`; of a sweep, that
            of the page over all.

    A campaign of a sweep that has no records yet gets no page.

    Raises:
        ConfigError: there is no ledger, none has a record, or a page cannot be written.
        LedgerError: a ledger is damaged.
    """
    folders = sweep_folders(path)
    if not folders:
        return write_report(path, output)
    waiting = [folder.name for folder in folders if not _has_records(folder)]
    folders = [folder for folder in folders if folder.name not in waiting]
    if not folders:
        raise ConfigError(
            f"no ledger in {path} holds a record yet ({', '.join(waiting)}); run the campaigns "
            "first"
        )
    parts = {folder: write_report(folder) for folder in folders}
    page = output or path / "report.html"
    runs = {
        quote(Path(os.path.relpath(part.page, page.parent)).as_posix()): read_run(folder)
        for folder, part in parts.items()
    }
    text = fill("overview.html", name=path.resolve().name, runs=runs, waiting=waiting)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {page}: {error}; name another place with --output"
        ) from error
    figures = tuple(figure for part in parts.values() for figure in part.figures)
    return Written(page, figures, all(part.png for part in parts.values()))


def _has_records(folder: Path) -> bool:
    return next(read_ledger(folder / LEDGER), None) is not None


def sweep_folders(path: Path) -> list[Path]:
    """The campaigns' folders in that of a sweep; none where the path is a campaign's own."""
    if not path.is_dir() or (path / LEDGER).is_file():
        return []
    return [ledger.parent for ledger in sorted(path.glob(f"*/{LEDGER}"))]
