"""A campaign's report, made from its ledger alone.

    >>> from pathlib import Path
    >>> from tuner.report.page import write_report
    >>> write_report(Path("runs/my-model"))         # doctest: +SKIP

:mod:`~tuner.report.read` turns the ledger into plain values, :mod:`~tuner.report.tables`,
:mod:`~tuner.report.search_tables` and :mod:`~tuner.report.figures` turn these into tables and
charts, and :mod:`~tuner.report.page` puts them on one HTML page that needs neither a network nor
scripts; :mod:`~tuner.report.overview` adds a page over the campaigns of a sweep. Charts are plain
data (:mod:`~tuner.report.chart`), drawn as SVG by :mod:`~tuner.report.svg` and as PNG by
:mod:`~tuner.report.png`.
"""
