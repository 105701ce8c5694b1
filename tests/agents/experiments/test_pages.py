"""The pages of reports, and their pictures in all formats."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from agents.experiments.pages import write_page


def test_a_picture_stands_in_the_page_and_beside_it_in_three_formats(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    write_page(tmp_path, "# A title\n\n![a curve](plots/curve.png)\n", {"curve": figure})
    with Image.open(tmp_path / "plots" / "curve.png") as picture:
        assert picture.format == "PNG" and picture.size == (320, 160)
    pdf = (tmp_path / "plots" / "curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") and b"CreationDate" not in pdf
    svg = (tmp_path / "plots" / "curve.svg").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert svg[svg.index("<svg") :].strip() in page and "<h1>A title</h1>" in page
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# A title")
