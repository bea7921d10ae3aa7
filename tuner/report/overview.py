"""The reports of a run: of one campaign, or of all campaigns of a sweep with a page over them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from search_space.errors import ConfigError
from tuner.report.page import Written, write_report
from tuner.report.read import LEDGER, read_run
from tuner.report.template import fill


def write_reports(path: Path, output: Path | None = None) -> Written:
    """Write the report of a campaign, or of a sweep: a page a campaign, and one over all.

    Args:
        path: the output folder of a campaign or sweep, or a ledger.
        output: the page's path, as for :func:`~tuner.report.page.write_report`; of a sweep, that
            of the page over all.

    Raises:
        ConfigError: there is no ledger, or a page cannot be written.
        LedgerError: a ledger is damaged.
    """
    folders = sweep_folders(path)
    if not folders:
        return write_report(path, output)
    parts = {folder: write_report(folder) for folder in folders}
    page = output or path / "report.html"
    runs = {
        quote(Path(os.path.relpath(part.page, page.parent)).as_posix()): read_run(folder)
        for folder, part in parts.items()
    }
    name = path.resolve().name
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(fill("overview.html", name=name, runs=runs), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {page}: {error}; name another place with --output"
        ) from error
    figures = tuple(figure for part in parts.values() for figure in part.figures)
    return Written(page, figures, all(part.png for part in parts.values()))


def sweep_folders(path: Path) -> list[Path]:
    """The campaigns' folders in that of a sweep; none where the path is a campaign's own."""
    if not path.is_dir() or (path / LEDGER).is_file():
        return []
    return [ledger.parent for ledger in sorted(path.glob(f"*/{LEDGER}"))]
