"""Tables of pages from results: tools/readme.py. tests/test_docs.py compares the pages."""

from pathlib import Path

import pytest

from tools.readme import main


def test_columns_of_a_table_and_a_whole_report(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("method,group mean,saved_mb\nDTL+*,80.04,1.25\nLoRA,81,\n")
    (tmp_path / "a.md").write_text("A caption.\n\n| a |\n| --- |\n\n- A note.\n")
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- results a.csv rows=DTL+* group_mean -->\nold\n<!-- end -->\n"
        "<!-- results a.csv group_mean saved_mb -->\nold\n<!-- end -->\nbetween\n"
        "<!-- results a.md -->\n<!-- end -->\nafter\n"
    )
    assert main([str(readme)]) == 0
    result = readme.read_text()
    assert "| method | group mean | saved for backward (MB) |" in result
    assert "| DTL+\\* | 80.0 | 1.2 |\n| LoRA | 81.0 | – |" in result
    assert "| method | group mean |\n| --- | --: |\n| DTL+\\* | 80.0 |\n\n" in result
    assert "old" not in result
    assert "| a |\n| --- |\n\n- A note.\n" in result
    assert "A caption" not in result
    assert [line for line in result.splitlines() if line.isalpha()] == [
        "before",
        "between",
        "after",
    ]
    assert main([str(readme)]) == 0
    assert readme.read_text() == result  # a second run changes nothing


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("b.csv top1", "'b.csv' is not in"),
        ("a.csv top", "unknown column 'top'"),
        ("a.csv rows=LoRA,DTL top1", "unknown row 'DTL'"),
    ],
)
def test_a_mistake_is_reported_and_changes_nothing(
    block: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("method,top1\nLoRA,1\n")
    readme = tmp_path / "README.md"
    readme.write_text(text := f"<!-- results {block} -->\n<!-- end -->\n")
    assert main([str(readme)]) == 2
    assert message in capsys.readouterr().err
    assert readme.read_text() == text
