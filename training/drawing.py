"""How pictures are drawn: one look, words that are only words, and files without a date."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from features.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "DARK", "INK", "LEGEND_LINE", "PALE", "QUIET", "SIZE", "STYLES", "Write", "blank", "compact",
    "count", "english", "frame", "from_zero", "ink_on", "legend", "legend_below", "note",
    "number_axis", "percent", "plain", "png", "ramp", "save", "styled", "svg", "words",
    "written",
]  # fmt: skip

DPI = 150
SIZE = (7.2, 4.6)  # inches
INK = "#222222"
QUIET = "#6b6b6b"
PALE = "#d5dde5"
DARK: Final = "#003a5d"
LEGEND_LINE = 0.22  # inches
METADATA: Final = ("Date", "Creator", "Format", "Type")
#: A number and its decimals as text.
Write = Callable[[float, int], str]
# Colours that the colour-blind can tell apart (after Okabe and Ito, the pale ones darkened), each
# with its own marker and line: as many as a backtest has models.
STYLES = (
    ("#0072b2", "o", "solid"),
    ("#d55e00", "s", (0, (5, 2))),
    ("#00805c", "^", (0, (1, 1.4))),
    ("#b0578a", "D", (0, (6, 2, 1, 2))),
    ("#2c86bf", "v", (0, (3, 1, 1, 1, 1, 1))),
    ("#a06e00", "P", (0, (8, 3))),
    ("#54398a", "X", (0, (2, 2))),
    ("#555555", "*", (0, (9, 2, 3, 2))),
)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG of 150 dpi, without date or version; give back the path.

    Raises
    ------
    InputError
        A file name that does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"A picture must be a .png file. Got {path.name}.")
    # The same pixels, a little less tightly packed, in half the time.
    path.write_bytes(png(figure, packed=1))
    return path


def png(figure: Figure, packed: int = 6) -> bytes:
    """The figure as PNG of 150 dpi, without date or version; `packed` is the effort, 1 to 9."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    look: dict[str, Any] = {
        "metadata": {"Software": None},
        "pil_kwargs": {"compress_level": packed},
    }
    # Not savefig, which lays everything out and draws it twice.
    with _as_it_was(figure):
        figure.set_dpi(DPI)
        FigureCanvasAgg(figure).print_png(buffer, **look)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as SVG: from ``<svg`` on, without date, and with the same ids each time."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Letters are drawn as paths: a machine without the font shows the same.
    look: dict[Any, Any] = {"svg.hashsalt": "clv", "svg.fonttype": "path"}
    with matplotlib.rc_context(look), _as_it_was(figure):
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata=dict.fromkeys(METADATA))  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


@contextmanager
def _as_it_was(figure: Figure) -> Iterator[None]:
    """The figure afterwards has the canvas and the dots per inch that it had."""
    canvas, dpi = figure.canvas, figure.dpi
    try:
        yield
    finally:
        figure.set_canvas(canvas)
        figure.set_dpi(dpi)


def blank(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """An empty figure of so many inches."""
    # Not at the top: importing matplotlib takes a second that commands without pictures save.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def ramp() -> Colormap:
    """One hue from light to dark, which every kind of sight puts in the same order."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("clv", ["#f4f8fb", "#7fb3d5", DARK])


def ink_on(red: float, green: float, blue: float) -> str:
    """Black or white, whichever is read better on a colour of sRGB (0 to 1).

    By relative luminance (WCAG 2.1): at 0.179 both have a contrast of 4.6, elsewhere one has more.
    """
    linear = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    )
    light = sum(part * c for part, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "black" if light > 0.179 else "white"


def styled(style: tuple[str, str, Any]) -> dict[str, Any]:
    """One of `STYLES` as matplotlib takes it."""
    colour, marker, line = style
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "linewidth": 1.8,
        "markersize": 6,
        "markerfacecolor": "white",
    }


def frame(axes: Axes, title: str) -> None:
    """Title, quiet spines and lines to read heights by."""
    if title:
        # The pad leaves one line between title and axes for the note and the legend.
        axes.set_title(plain(title), loc="left", fontsize=12, color=INK, pad=24)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(axis="y", color="#ececec", zorder=0)
    axes.set_axisbelow(True)


def words(axes: Axes, x: str, y: str) -> None:
    """What the axes mean."""
    axes.set_xlabel(plain(x), fontsize=10, color=INK)
    axes.set_ylabel(plain(y), fontsize=10, color=INK)


def note(axes: Axes, text: str) -> None:
    """One quiet line under the title."""
    axes.annotate(
        text, (0, 1), (0, 8), "axes fraction", textcoords="offset points", fontsize=9, color=QUIET
    )


def legend(axes: Axes) -> None:
    """Above the axes on the right, where no data can lie."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
    )


def legend_below(figure: Figure, axes: Axes) -> None:
    """Below the axes, a line per curve: long labels never lie upon data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=9)


def from_zero(axes: Axes) -> None:
    """The axis of amounts holds zero, and where all is zero stands still from 0 to 1."""
    low, high = axes.dataLim.intervaly
    flat = low == high == 0
    axes.set_ylim(0 if low >= 0 else low * 1.05, 1 if flat else max(0, high) * 1.05)
    number_axis(axes)


def number_axis(axes: Axes, number: Callable[[float], str] | None = None) -> None:
    """Numbers on the axis of heights, short, or as `number` writes them."""
    write = number or compact
    axes.yaxis.set_major_formatter(lambda value, _: write(value))


def english(value: float, decimals: int) -> str:
    """A number as English writes it."""
    return f"{value:,.{decimals}f}"


def written(write: Write) -> Callable[[float], str]:
    """Numbers for an axis in a language's own form: `compact` where that is English."""
    if write is english:
        return compact

    def text(value: float) -> str:
        whole = abs(value) >= 10 or value == round(value)
        return write(value, 0 if whole else 2 if abs(value) < 1 else 1)

    return text


def compact(value: float) -> str:
    """A number for an axis: 1,250 or 2.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"


def plain(text: str) -> str:
    """A dollar sign is a dollar sign, not the start of a formula."""
    return text.replace("$", r"\$")


def percent(share: float) -> str:
    """A signed share of 1 as text."""
    return "undefined" if math.isnan(share) else f"{100 * share:+.1f} %"


def count(n: float) -> str:
    """How many customers, as text."""
    return f"{n:,.0f} customers"
