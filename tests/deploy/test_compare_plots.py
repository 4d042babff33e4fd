"""The plots of a comparison: which rows are compared, and how they are shown."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deploy.compare.plots import gain_plot, teacher_gains, write_plots
from deploy.compare.rows import Row, read_rows
from deploy.dev.docs import bench_plots, plotted_rows

RESULTS = Path(__file__).parents[1] / "bench" / "results"
COMMITTED = read_rows(RESULTS / "compare.json")


def row(method: str, robust: float, *, seed: int = 0, budget_s: float = 4.0) -> Row:
    changes = {
        "dataset": "digits",
        "num_train": 4500,
        "tuned": False,
        "num_parameters": 970,
        "method": method,
        "robust_accuracy": robust,
        "seed": seed,
        "cpu_budget_s": budget_s,
    }
    return COMMITTED[0].model_copy(update=changes)


def test_gains_are_differences_of_the_same_seed() -> None:
    rows = [row("takt", 0.8), row("warm_at", 0.7), row("pgd_at", 0.2)]
    rows += [row("takt", 0.6, seed=1), row("warm_at", 0.3, seed=1)]
    rows += [row("takt", 0.1, seed=2)]  # without its other half
    [(size, middle, deviation)] = teacher_gains(rows)["digits"]
    assert size == 970
    assert middle == pytest.approx(20)
    assert deviation == pytest.approx(200**0.5)


def test_the_largest_budget_alone_counts() -> None:
    rows = [row("takt", 0.8), row("warm_at", 0.7)]
    rows += [row("takt", 0.3, budget_s=1.0), row("warm_at", 0.1, budget_s=1.0)]
    [(_, middle, _)] = teacher_gains(rows)["digits"]
    assert middle == pytest.approx(10)


def test_images_of_one_name_and_two_numbers_are_two_curves() -> None:
    few = {"num_train": 450, "robust_accuracy": 0.3}
    rows = [row("takt", 0.8), row("warm_at", 0.7)]
    rows += [old.model_copy(update=few) for old in rows]
    gains = {name: middle for name, [(_, middle, _)] in teacher_gains(rows).items()}
    assert gains == {"digits, 450 images": 0, "digits, 4,500 images": pytest.approx(10)}


def test_without_both_methods_there_is_no_plot_of_gains(tmp_path: Path) -> None:
    rows = [row("takt", 0.8), row("pgd_at", 0.7)]
    written = write_plots(rows, tmp_path / "rows.json")
    assert [path.name for path in written] == ["rows-cpu.svg", "rows-bytes.svg"]


def test_the_plot_of_gains_is_svg_that_names_each_student_and_its_gain() -> None:
    text = gain_plot(teacher_gains([row("takt", 0.8), row("warm_at", 0.7)]))
    root = ET.fromstring(text)
    assert root.get("role") == "img" and "above warm_at" in str(root.get("aria-label"))
    assert "digits, 970 parameters: +10.0" in " ".join(root.itertext())


@pytest.mark.parametrize("rows", plotted_rows(), ids=lambda path: path.stem)
def test_the_committed_plots_are_made_of_the_committed_rows(
    rows: Path, tmp_path: Path
) -> None:
    for path in write_plots(read_rows(rows), tmp_path / rows.name):
        assert texts(path) == texts(RESULTS / path.name), "python -m deploy.dev.docs"


@pytest.mark.parametrize(("path", "text"), bench_plots().items(), ids=str)
def test_the_committed_plots_of_benches_are_made_of_their_rows(
    path: Path, text: str, tmp_path: Path
) -> None:
    made = tmp_path / path.name
    made.write_text(text)
    assert texts(made) == texts(path), "python -m deploy.dev.docs"


def texts(path: Path) -> list[str]:
    """All texts of an SVG file: labels, and the figure of each point."""
    return [text for text in ET.parse(path).getroot().itertext() if text.strip()]


def test_a_plot_has_colours_for_light_and_dark() -> None:
    text = gain_plot(teacher_gains([row("takt", 0.8), row("warm_at", 0.7)]))
    assert "prefers-color-scheme: dark" in text
    drawing = text[text.index("</style>") :]
    assert "var(--s0)" in drawing and "#" not in drawing
