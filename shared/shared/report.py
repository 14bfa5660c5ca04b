"""The report of a run: one self-contained HTML file with text, tables and pictures, safe to open and to send.

    report = Report("Grounding driving commands", banner="Embedded data: drawn scenes, no score of Talk2Car")
    report.highlights({"AP50": "0.53", "mean IoU": "0.47"})
    report.heading("Results")
    report.table(["model", "AP50"], [["ours", 0.53], ["constant box", 0.01]], caption="Validation split")
    report.figure(curves(run / "metrics.jsonl", ["loss"], "Training"), caption="Loss")
    report.write(run / "report.html")

All text is escaped, for commands and file names come from data; a content policy in the page also forbids scripts and
anything fetched from elsewhere. Pictures are embedded as PNG. The page follows the reader's light or dark setting and
prints.
"""

import base64
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from .errors import DataError
from .metrics_log import read_records
from .storage import write_atomic

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUMBER = re.compile(r"nan|[-+−±<>≤≥~≈]?\s?(inf|\d[\d.,\s%±–+−\-\[\]()/×e]*[a-zA-Zµ]{0,3})")  # "1.2 ms", "0.5 ± 0.1"
NO_VALUE = "–"
INK, MUTED, GRID = "#1c2330", "#5b6472", "#e3e6eb"
LINES = ("#2f5fd0", "#d9662b", "#2a9d6f", "#8a4fc4", "#c2364f", "#8a6d1a")

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --ink: #1c2330; --muted: #5b6472; --line: #e3e6eb; --soft: #f5f6f8; --accent: #2f5fd0;
  --warn-page: #fff4d6; --warn-ink: #5c4300; --warn-line: #e5a50a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171c; --ink: #e4e7ec; --muted: #9aa3b0; --line: #2c323b; --soft: #1c2027; --accent: #8fb0ff;
  --warn-page: #3a2e0c; --warn-ink: #ffe3a0; --warn-line: #e5a50a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
.banner { position: sticky; top: 0; z-index: 1; padding: .7rem 1.5rem; text-align: center; font-weight: 600;
  background: var(--warn-page); color: var(--warn-ink); border-bottom: 2px solid var(--warn-line); }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
header { margin-bottom: 2.5rem; }
h1 { margin: 0; font-size: 2.1rem; line-height: 1.2; font-weight: 700; letter-spacing: -.02em; text-wrap: balance; }
.subtitle { margin: .6rem 0 0; color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin-top: 1.4rem; padding-top: .9rem;
  border-top: 1px solid var(--line); font-size: .92rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
h2, h3 { line-height: 1.3; scroll-margin-top: 4rem; letter-spacing: -.01em; text-wrap: balance; }
h2 { margin: 3.2rem 0 .9rem; font-size: 1.4rem; }
h3 { margin: 2.2rem 0 .6rem; font-size: 1.1rem; }
p { margin: 0 0 1rem; max-width: 46rem; }
.highlights { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
  margin: 0 0 2rem; }
.highlights div { padding: 1rem 1.1rem; border: 1px solid var(--line); border-radius: 10px; background: var(--soft); }
.highlights dt { color: var(--muted); font-size: .85rem; line-height: 1.35; }
.highlights dd { margin: .2rem 0 0; font-size: 1.5rem; line-height: 1.2; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
figure { margin: 1.4rem 0 2rem; }
figcaption { color: var(--muted); font-size: .9rem; line-height: 1.45; }
.scroll { overflow-x: auto; }
.table figcaption { margin-bottom: .55rem; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; line-height: 1.4; }
th, td { padding: .5rem .9rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; border-bottom: 1.5px solid var(--muted); color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { padding-left: .3rem; }
th:last-child, td:last-child { padding-right: .3rem; }
tbody tr:hover { background: var(--soft); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.picture { text-align: center; }
.picture figcaption { max-width: 46rem; margin: .6rem auto 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 8px; background: #fff; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.4rem 1.2rem;
  margin: 1.4rem 0 2rem; }
.gallery figure { margin: 0; }
.gallery img { width: 100%; }
.gallery figcaption { margin-top: .45rem; text-align: left; }
pre { margin: 1.2rem 0 1.6rem; padding: .9rem 1.1rem; overflow-x: auto; background: var(--soft);
  border: 1px solid var(--line); border-radius: 8px;
  font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 40rem) { main { padding: 1.8rem 1rem 3rem; } h1 { font-size: 1.6rem; } h2 { margin-top: 2.4rem; }
  th, td { padding: .45rem .6rem; } }
@media print {
  :root { --page: #fff; --ink: #000; --muted: #444; --line: #ccc; --soft: #fff; --accent: #000;
    --warn-page: #fff; --warn-ink: #000; --warn-line: #000; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
  .banner { position: static; border: 2px solid #000; margin-bottom: 1.5rem; } .scroll { overflow: visible; }
  h2, h3 { break-after: avoid; } figure.picture, .gallery figure, tr, pre { break-inside: avoid; }
  pre { white-space: pre-wrap; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
{% if banner %}<div class="banner" role="note">{{ banner }}</div>
{% endif -%}
<main>
<header>
<h1>{{ title }}</h1>
{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>
{% endif -%}
{% if contents | length > 2 %}<nav>
{% for block in contents %}<a href="#{{ block.anchor }}">{{ block.text }}</a>
{% endfor %}</nav>
{% endif -%}
</header>
{% for block in blocks -%}
{% if block.kind == "heading" %}<h{{ block.level }} id="{{ block.anchor }}">{{ block.text }}</h{{ block.level }}>
{% elif block.kind == "text" %}{% for paragraph in block.paragraphs %}<p>{{ paragraph }}</p>
{% endfor -%}
{% elif block.kind == "code" %}<pre>{{ block.text }}</pre>
{% elif block.kind == "highlights" %}<dl class="highlights">
{% for name, value in block.pairs %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% elif block.kind == "table" %}<figure class="table">
{% if block.caption %}<figcaption>{{ block.caption }}</figcaption>
{% endif %}<div class="scroll"><table>
<thead><tr>
{% for text, side in block.headers %}<th scope="col" class="{{ side }}">{{ text }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}<tr>{% for text, side in row %}<td class="{{ side }}">{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
</figure>
{% elif block.kind == "gallery" %}{% if block.grid %}<div class="gallery">
{% endif %}{% for picture in block.pictures %}<figure class="picture">
<img src="data:image/png;base64,{{ picture.data }}" alt="{{ picture.caption or 'figure' }}">
{% if picture.caption %}<figcaption>{{ picture.caption }}</figcaption>
{% endif %}</figure>
{% endfor %}{% if block.grid %}</div>
{% endif %}{% endif -%}
{% endfor -%}
</main>
</body>
</html>
"""


class Report:
    """A page built from top to bottom; every method adds one block, `write` saves the file."""

    def __init__(self, title: str, banner: str | None = None, subtitle: str = "") -> None:
        """banner: what no reader may miss (embedded data, overlay frames), kept in view while scrolling."""
        self.title, self.banner, self.subtitle = title, banner, subtitle
        self._blocks: list[dict[str, Any]] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A section (level 2; three or more make a table of contents) or subsection (level 3)."""
        if level not in (2, 3):
            raise ValueError(f"heading level {level}: 2 is a section, 3 a subsection")
        self._add("heading", text=text, level=level, anchor=f"section-{len(self._blocks)}")

    def text(self, text: str) -> None:
        """Paragraphs, separated by blank lines."""
        self._add("text", paragraphs=[part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()])

    def code(self, text: str) -> None:
        """Preformatted text: a command, a configuration, a log."""
        self._add("code", text=text)

    def highlights(self, values: Mapping[str, Any]) -> None:
        """The few numbers the page is about, in large type: name -> value."""
        self._add("highlights", pairs=[(name, _column([value])[0]) for name, value in values.items()])

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
        """A table. Columns of numbers are set right, with equal decimals (give text to choose them); None is a dash.

        Raises ValueError for a row whose length is not that of the headers.
        """
        for number, row in enumerate(rows, start=1):
            if len(row) != len(headers):
                raise ValueError(f"row {number} of the table has {len(row)} cells for {len(headers)} headers: {row!r}")
        columns = [_column([row[i] for row in rows]) for i in range(len(headers))]
        sides = ["number" if _is_numeric(column) else "words" for column in columns]
        cells = [list(zip(row, sides, strict=True)) for row in zip(*columns, strict=True)]
        self._add("table", headers=list(zip(headers, sides, strict=True)), rows=cells, caption=caption)

    def figure(self, picture: Figure | Path | str, caption: str = "") -> None:
        """A picture across the page: a matplotlib figure, or the path of a PNG file (DataError for anything else)."""
        self._add("gallery", grid=False, pictures=[{"data": _png_base64(picture), "caption": caption}])

    def gallery(self, pictures: Sequence[tuple[Figure | Path | str, str]]) -> None:
        """Pictures side by side, as many as fit: (picture, caption) pairs, as for `figure`."""
        self._add("gallery", grid=True, pictures=[{"data": _png_base64(p), "caption": c} for p, c in pictures])

    def html(self) -> str:
        """The whole page."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        return environment.from_string(PAGE).render(
            title=self.title,
            banner=self.banner,
            subtitle=self.subtitle,
            css=Markup(CSS),
            contents=[b for b in self._blocks if b["kind"] == "heading" and b["level"] == 2],
            blocks=self._blocks,
        )

    def write(self, path: Path) -> None:
        """Write the page to `path`, atomically."""
        write_atomic(Path(path), self.html().encode("utf-8", "backslashreplace"))  # file names may hold odd bytes

    def _add(self, kind: str, **content: Any) -> None:
        self._blocks.append({"kind": kind, **content})


def curves(metrics_jsonl: Path, keys: Sequence[str], title: str = "", *, split_prefix: str = "") -> Figure:
    """One panel per key of a metrics.jsonl over the steps, one line per split; "time/x" is the x under "time".

    split_prefix: only the splits that begin so (one stage of several).

    Raises DataError for a file without records of a key, naming the keys it has.
    """
    records = [r for r in read_records(metrics_jsonl) if r["split"].startswith(split_prefix)]
    flat = [{**r, **{f"time/{name}": value for name, value in r.get("time", {}).items()}} for r in records]
    known = sorted({name for r in flat for name in r} - {"step", "split", "time"})
    missing = [key for key in keys if key not in known]
    if missing or not keys:
        raise DataError(f"{metrics_jsonl} has no values of {', '.join(missing) or 'no key'}; it has {', '.join(known)}")
    columns = min(len(keys), 2)
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(8.6 if columns == 2 else 7, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = dict(zip(dict.fromkeys(r["split"] for r in records), itertools.cycle(LINES), strict=False))
    for panel, key in zip(panels, keys, strict=False):
        _draw_curve(panel, [r for r in flat if key in r], key, colours)
    for panel in panels[len(keys) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=INK, parse_math=False)
    return figure


def _draw_curve(panel: Any, records: Sequence[Mapping[str, Any]], key: str, colours: Mapping[str, str]) -> None:
    for split in dict.fromkeys(r["split"] for r in records):
        points = [(r["step"], r[key]) for r in records if r["split"] == split]
        marker = "o" if len(points) < 30 else None
        panel.plot(*zip(*points, strict=True), color=colours[split], label=f" {split}", linewidth=1.6,
                   marker=marker, markersize=3.5)  # fmt: skip
    panel.set_title(key, fontsize=10, color=INK, loc="left", parse_math=False)
    panel.set_xlabel("step", fontsize=9, color=MUTED)
    panel.tick_params(labelsize=8.5, colors=MUTED, length=0)
    panel.grid(color=GRID, linewidth=0.8)
    panel.spines[:].set_visible(False)
    panel.margins(x=0.02)
    legend = panel.legend(fontsize=8.5, labelcolor=INK, edgecolor="none", framealpha=0.8)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a `$` in a name is a character


def _png_base64(picture: Figure | Path | str) -> str:
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=144)
        return base64.b64encode(buffer.getvalue()).decode()
    try:
        data = Path(picture).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the picture {picture}: {error.strerror}") from None
    if not data.startswith(PNG_SIGNATURE):
        raise DataError(f"{picture} is not a PNG file (it begins with {data[:8]!r}); save the picture as PNG")
    return base64.b64encode(data).decode()


def _column(cells: Sequence[Any]) -> list[str]:
    """The cells of one column as text, floats with so many decimals that the largest shows four digits."""
    values = [cell.item() if hasattr(cell, "item") else cell for cell in cells]
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    decimals = 4 - max(1, math.floor(math.log10(max(sizes, default=1))) + 1)
    fixed = f".{max(0, decimals)}f" if not sizes or min(sizes) >= 0.001 else ".3g"
    return [_cell(value, fixed) for value in values]


def _cell(value: Any, float_format: str) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return format(value, float_format) if isinstance(value, float) else str(value)


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in ("", NO_VALUE)]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)
