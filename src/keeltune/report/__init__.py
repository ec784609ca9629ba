"""What people look at: the run's page and its model card."""

from keeltune.report.report import model_card, page

__all__ = ["model_card", "page"]
