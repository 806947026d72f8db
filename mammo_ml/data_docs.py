"""Data Docs that open offline: Great Expectations' pages without anything fetched from the network, and an index."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --good: #2a7d46; --bad: #c0392b; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem 2rem 4rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h4, h5, h6, .h6 { font-size: 1rem; font-weight: 600; margin: .6rem 0 .2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
thead th { border-bottom-width: 2px; } td:first-child { min-width: 2rem; }
.alert { background: var(--soft); border-left: 4px solid var(--line); padding: .3rem .8rem; margin-top: 1.5rem; }
.ge-breadcrumbs { display: flex; gap: .6rem; list-style: none; padding: 0; }
.ge-breadcrumbs li + li::before { content: "/ "; }
.badge { background: var(--soft); border-radius: .3rem; padding: 0 .3rem; }
.collapse, a[data-toggle="collapse"], .btn-group, .btn-group-toggle, .sticky > .card:first-child,
table:not(:has(td)), hr, li:has(> hr):not(:has(span)) { display: none; }
.sticky ul { columns: 14rem; padding-left: 1rem; }
.fa-check-circle::before { content: "\\2713"; color: var(--good); font-style: normal; }
.fa-times::before { content: "\\2717"; color: var(--bad); font-style: normal; }
.fa-exclamation-triangle::before { content: "!"; color: var(--bad); font-style: normal; font-weight: 700; }
.passed { color: var(--good); font-weight: 600; } .failed { color: var(--bad); font-weight: 600; }
pre, .show-scrollbars { overflow: auto; max-width: 100%; }
"""

_REMOVED = [
    (re.compile(r"<(script|style|svg|form|iframe|footer|button)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE), ""),
    (re.compile(r"<(?:link|img)\b[^>]*>", re.IGNORECASE), ""),
    (re.compile(r"<title>\s*</title>"), ""),
    (re.compile(r"""\s(?:on\w+|style)="[^"]*\""""), ""),
    (re.compile(r"""href="https?://[^"]*\""""), ""),
    # what differs between two runs on the same tables: random ids and the time a table was loaded
    (re.compile(r"collapse-body-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "collapse-body"),
    (re.compile(r"\d{8}T\d{6}\.\d{6}Z(?=</span>)"), "not recorded"),
    (re.compile(r"\n\s*(?=\n)"), ""),
]
_VALUES_OF_ROW = re.compile(r"(?<=>)\('[^'<]*'(?:, '[^'<]*')+\)(?=<)")


@dataclass(frozen=True)
class PageLinks:
    """One line of the index: a table's suite, its counts, and the pages (relative to the index) that show it."""

    suite: str
    n_rows: int
    n_evaluated: int
    n_failed: int
    validation_page: str
    suite_page: str


def offline_page(html: str) -> str:
    """One page of Data Docs without what comes from the network, and without what differs between equal runs."""
    for pattern, replacement in _REMOVED:
        html = pattern.sub(replacement, html)
    # Great Expectations shows a row's values in the order of a set, another one in every process.
    html = _VALUES_OF_ROW.sub(lambda found: f"({', '.join(sorted(found[0][1:-1].split(', ')))})", html)
    return html.replace("</head>", f"<style>{STYLE}</style>\n</head>", 1)


def index_page(links: Sequence[PageLinks], problems: Sequence[str], warnings: Sequence[str]) -> str:
    """Front page: what failed first, then a line per table with links to its result and its suite."""
    verdict = '<p class="failed">Failed</p>' if problems else '<p class="passed">Passed</p>'
    rows = "\n".join(
        f"<tr><td>{escape(link.suite)}</td><td>{link.n_rows}</td><td>{link.n_evaluated}</td>"
        f'<td class="{"failed" if link.n_failed else "passed"}">{link.n_failed}</td>'
        f'<td><a href="{escape(link.validation_page)}">result</a></td>'
        f'<td><a href="{escape(link.suite_page)}">expectations</a></td></tr>'
        for link in links
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="UTF-8">\n<title>Data Docs</title>',
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>Data Docs</h1>\n{verdict}",
        _list("Problems", problems),
        _list("Warnings", warnings),
        "<h2>Tables</h2>\n<table>\n<thead><tr><th>suite</th><th>rows</th><th>expectations evaluated</th><th>failed</th>"
        f"<th></th><th></th></tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _list(title: str, lines: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2>\n<ul>\n{items}\n</ul>" if lines else ""


def write_pages(pages: Mapping[str, str], folder: Path) -> None:
    """Write pages, relative path to text, into a folder and remove HTML pages of earlier runs from it."""
    for old in folder.rglob("*.html"):
        old.unlink()
    for name, text in sorted(pages.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
