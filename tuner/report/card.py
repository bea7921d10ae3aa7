"""The cost model's card, where the campaign's model file stands beside its ledger."""

from __future__ import annotations

from dataclasses import dataclass

from cost_models.stored import read_model
from search_space.errors import ModelFileError
from tuner.card_tables import card_pages, card_summary
from tuner.model_files import MODEL_FILE
from tuner.report.tables import Table
from tuner.report.values import Run


@dataclass(frozen=True)
class CardShown:
    """A line on what was judged, or why it cannot be told, and the card's tables."""

    text: str
    tables: tuple[Table, ...] = ()


def stored_card(run: Run) -> CardShown | None:
    """The card of a campaign's own model; None where no model or no card was written, as in a
    report that is made from the ledger alone."""
    path = run.path.with_name(MODEL_FILE)
    if not path.is_file():
        return None
    try:
        card = read_model(path).card
    except ModelFileError as error:
        return CardShown(str(error))
    if card is None:
        return None
    found = tuple(
        Table(page.title, page.columns, page.rows, frozenset(page.columns) - {"model"})
        for page in card_pages(card)
    )
    return CardShown(f"The model in {MODEL_FILE} was {card_summary(card)}.", found)
