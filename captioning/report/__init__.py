"""Pages that show how well captions do: one HTML file each, which needs no other and no network.

What lives here knows pictures, captions and metrics, but no model.
"""

from typing import TYPE_CHECKING

from weights.lazy import lazy_exports

if TYPE_CHECKING:
    from captioning.report.article import compare_with_article
    from captioning.report.page import Report, Shown, write_report

__all__ = ["Report", "Shown", "compare_with_article", "write_report"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Report": "captioning.report.page",
        "Shown": "captioning.report.page",
        "compare_with_article": "captioning.report.article",
        "write_report": "captioning.report.page",
    },
)
