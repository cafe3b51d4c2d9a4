"""One name is one number, and what was not found is not shown."""

from sharpgpt.commands.evaluate import statistics_text
from sharpgpt.report.arms import arm_of
from sharpgpt.report.evaluation import evaluated_models
from sharpgpt.report.statistics import statistics_table, validation_scope
from tests.report.test_comparison import evaluation


def test_the_calibration_error_on_the_terminal_is_that_of_the_page() -> None:
    """The terminal had the binned one and the page the smooth one, under one name."""
    one = evaluation("model")
    one["calibration"]["unchanged"] = {"ece": 0.0092, "smooth_ece": 0.0103, "bins": []}
    table = dict(statistics_table(evaluated_models({"evaluations": [one]})))
    assert table["Smooth calibration error"] == ["0.0103"]
    assert table["Expected calibration error, 15 bins"] == ["0.0092"]
    said = statistics_text(one).splitlines()
    assert (
        "smooth calibration error               0.0103   at the best temperature 0.0200" in said[-3]
    )
    assert (
        "expected calibration error, 15 bins    0.0092   at the best temperature 0.0200" in said[-2]
    )
    assert "best temperature                        1.020   cross-entropy there 1.9000" in said[-1]


def test_no_best_temperature_is_shown_where_there_is_none() -> None:
    """The end of the search, 64, was called the best temperature above a note that denied it."""
    one = evaluation("model")
    note = "there is no best temperature between 0.00781 and 64"
    one["temperature"] |= {"best": 64.0, "note": note, "ce": 1.0}
    arm = arm_of("model", None, None, runs=[one], content=one)
    headings = [heading for heading, _ in statistics_table([arm])]
    assert not [heading for heading in headings if "best temperature" in heading.lower()]
    said = statistics_text(one)
    assert said.splitlines()[-1].strip() == note
    assert "64.0" not in said
    assert "at the best temperature" not in said


def test_how_much_of_the_split() -> None:
    assert (
        validation_scope({"num_blocks": 9, "num_blocks_in_split": 9})
        == "the whole validation split"
    )
    assert validation_scope({"num_blocks": 9, "num_blocks_in_split": 1771}) == (
        "9 of the 1,771 blocks of the validation split"
    )
    assert validation_scope({"num_blocks": 9}) == "the validation split"
