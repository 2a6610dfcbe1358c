from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_ensir import EnsembleError
from napari_ensir.ensemble.scoring.score_table import DIFFERENCE, PSNR, SSIM, ScoreRow, ScoreTable
from napari_ensir.ensemble.scoring.scores import BlockErrors, NoisyScores, block_errors, side_by_side, verdict

ROWS = (
    ScoreRow("near", "candidate", psnr=31.5, ssim=0.91),
    ScoreRow("a|b", "candidate", psnr=28.25, note="<small>"),
)


def test_the_best_value_of_each_column_is_marked():
    table = ScoreTable(ROWS, (PSNR, SSIM))
    assert table.texts(PSNR) == ["★ 31.500", "28.250"]
    assert table.texts(SSIM) == ["★ 0.9100", "–"]
    assert table.best == 0


def test_differences_are_marked_by_their_significance_only():
    rows = (
        ScoreRow("a", "candidate", psnr=9.0, difference=-2.0, standard_error=0.11, tied=True),
        ScoreRow("average", "average", psnr=8.0, difference=0.0, standard_error=0.0),
    )
    table = ScoreTable(rows, (DIFFERENCE, PSNR))
    assert table.texts(DIFFERENCE) == ["≈ −2.00 ± 0.11", "0"]
    assert table.texts(PSNR) == ["9.000", "8.000"]
    assert table.best is None


def test_markdown_and_html_escape_names():
    table = ScoreTable(ROWS, (PSNR,), ("A note.",), "A summary.", "method")
    lines = table.to_markdown().splitlines()
    assert lines[0] == "| method | PSNR, dB |  |"
    assert lines[3] == "| a\\|b | 28.250 | <small> |"
    html = table._repr_html_()
    assert html.startswith("<p>A summary.</p><table>")
    assert "&lt;small&gt;" in html
    assert html.endswith("<p>A note.</p>")


def test_text_has_summary_table_and_notes_in_this_order():
    first, *_, last = str(ScoreTable(ROWS, (PSNR,), ("A note.",), "A summary.")).splitlines()
    assert (first, last) == ("A summary.", "A note.")


def test_csv_has_full_precision_and_standard_errors():
    row = ScoreRow("a", "candidate", difference=-0.123456789, standard_error=0.25)
    heading, values = csv.reader(ScoreTable((row,), (DIFFERENCE,)).to_csv().splitlines())
    assert heading[3] == "standard error of difference of MSE (squared intensity)"
    assert values == ["a", "candidate", "-0.123456789", "0.25", ""]


def test_json_has_none_for_unknown_scores():
    assert ScoreTable(ROWS, (SSIM,)).to_dict()["rows"][1] == {
        "name": "a|b",
        "role": "candidate",
        "ssim": None,
        "note": "<small>",
    }


def test_rows_are_found_by_unique_names():
    table = ScoreTable((*ROWS, ScoreRow("near", "method")), (PSNR,))
    assert table["a|b"].psnr == 28.25
    with pytest.raises(EnsembleError, match="2 rows 'near', a candidate and a method"):
        table["near"]
    with pytest.raises(EnsembleError, match="no row 'far'; there are: near"):
        table["far"]


# -- is the ensemble better? ---------------------------------------------------------------------------

SIGMA = 10.0


def scores_of(errors, noise=SIGMA, seed=0, size=256):
    """Scores of candidates A and B and of an ensemble with errors of these standard deviations."""
    rng = np.random.default_rng(seed)
    truth = np.full((size, size), 100.0)
    images = [truth + rng.normal(0, error, truth.shape) for error in errors]
    images.insert(2, np.mean(images[:2], axis=0))
    noisy = truth + rng.normal(0, SIGMA, truth.shape)
    others = [("ensemble", "ensemble")] * (len(errors) - 2)
    return NoisyScores.of("AB", [block_errors(noisy, images)], 255.0, noise, others)


def test_the_verdict_is_in_decibels_if_the_noise_is_known():
    scores = scores_of((15, 18, 12))
    true = 20 * np.log10(15 / 12)
    found = scores.psnr_difference(3, 0)
    assert abs(found.value - true) < 3 * found.standard_error
    assert verdict(scores) == "The ensemble is better than the best candidate (A) by 1.92 ± 0.05 dB."
    assert scores.table().summary == verdict(scores)


def test_the_error_of_a_difference_in_decibels_is_its_spread():
    found = [scores_of((15, 18, 12), seed=seed, size=64).psnr_difference(3, 0) for seed in range(40)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.4)


def test_the_verdict_is_in_mean_squared_error_if_the_noise_is_unknown_or_hides_the_errors():
    words = "The ensemble is better than the best candidate (A) by"
    assert verdict(scores_of((15, 18, 12), "unknown")).startswith(words)
    assert verdict(scores_of((15, 18, 12), "unknown")).endswith(" in mean squared error.")
    assert verdict(scores_of((0.5, 0.8, 0.1))).endswith(" in mean squared error.")


def test_the_verdict_says_if_the_ensemble_is_worse_or_no_better():
    assert "is worse than the best candidate (A) by" in verdict(scores_of((12, 18, 15)))
    scores = scores_of((15, 18))
    same = side_by_side([scores.blocks, scores.blocks])
    names, roles = ("A", "B", "average", "ensemble"), ("candidate", "candidate", "average", "ensemble")
    first = type(same)(same.sums[:, [0, 1, 2, 0]], same.counts)
    equal = NoisyScores(names, first, 255.0, SIGMA, 2, roles)
    assert verdict(equal) == "The ensemble is equal to the best candidate (A)."


def test_without_an_ensemble_the_verdict_names_the_best_candidates():
    assert verdict(scores_of((12, 18))) == "The best candidate is A."
    assert verdict(scores_of((12, 12))).endswith(" is not significantly worse.")


def test_the_noisy_input_has_the_variance_of_its_noise_and_comes_first():
    scores = scores_of((3, 5))
    counts = scores.blocks.counts
    # Of the input against another exposure: twice the variance of the noise.
    own = BlockErrors(2 * SIGMA**2 * counts[:, None].astype(float), counts)
    blocks = side_by_side([scores.blocks, own])
    others = [("noisy input", "input")]
    row = NoisyScores.of("AB", [blocks], 255.0, SIGMA, others).table().rows[0]
    assert row.role == "input"
    assert row.psnr == pytest.approx(20 * np.log10(255 / SIGMA))


def test_a_clean_reference_has_no_noise_to_subtract():
    truth = np.zeros((64, 64))
    images = [truth + 25.5, truth + 51, truth + 38.25]
    table = NoisyScores.of("AB", [block_errors(truth, images)], 255.0, 0.0).table()
    assert table["A"].psnr == pytest.approx(20)
    assert not any("noise" in note for note in table.notes)
