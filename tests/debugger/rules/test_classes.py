from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.classes import (
    calibration,
    class_imbalance,
    confident_errors,
    confusion,
    confusion_matrix,
    likely_label_errors,
)
from dogbreed.debugger.series import Predictions


def predictions(labels, predicted, classes=10, sure=0.9) -> Predictions:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    probabilities = np.full((len(labels), classes), (1 - sure) / (classes - 1))
    probabilities[np.arange(len(labels)), predicted] = sure
    names = tuple(f"class {i}" for i in range(classes))
    return Predictions(labels, probabilities, np.arange(len(labels)), names)


class TestClassImbalance:
    def test_oracle_990_against_10(self):
        assert class_imbalance({"a": 990, "b": 10}).status is Status.ISSUE

    def test_even_classes_with_eighty_percent_right(self):
        labels = np.repeat(np.arange(5), 100)
        guess = np.where(np.arange(500) % 5 == 0, (labels + 1) % 5, labels)
        counts = {str(i): 100 for i in range(5)}
        assert class_imbalance(counts, predictions(labels, guess, 5)).status is Status.OK

    def test_suggestion_balances_the_classes(self):
        assert class_imbalance({"a": 990, "b": 10}).suggestion.override == "data.balanced=true"

    def test_missing_class_is_infinitely_rare(self):
        outcome = class_imbalance({"a": 990, "b": 0})
        assert not outcome.suggestion.override
        assert outcome.evidence[0].value == float("inf")

    def test_ratio_equal_to_threshold_does_not_fire(self):
        assert class_imbalance({"a": 1000, "b": 100}).status is Status.OK

    def test_few_labels_are_insufficient(self):
        assert class_imbalance({"a": 99, "b": 1}).status is Status.INSUFFICIENT_DATA

    def test_missed_class_fires_only_in_a_good_model(self):
        labels = np.repeat(np.arange(5), 100)
        counts = {str(i): 100 for i in range(5)}
        one_missed = np.where(labels == 2, 3, labels)
        assert class_imbalance(counts, predictions(labels, one_missed, 5)).evidence[0].tensor == "class 2"
        all_missed = (labels + 1) % 5
        assert class_imbalance(counts, predictions(labels, all_missed, 5)).status is Status.OK


class TestConfusion:
    DIGITS = np.arange(10)

    def test_oracle_identity_does_not_fire(self):
        assert confusion(predictions(self.DIGITS, self.DIGITS)).status is Status.OK

    @pytest.mark.parametrize("settings", [{}, {"min_diag": 0, "max_off_diag": 0.01}, {"max_off_diag": 1.0}])
    def test_oracle_one_digit_confused_with_another_fires(self, settings):
        guess = self.DIGITS.copy()
        guess[4] = 7
        outcome = confusion(predictions(self.DIGITS, guess), **settings)
        assert outcome.status is Status.ISSUE
        assert outcome.evidence[0].tensor == "class 4"

    def test_with_confidence_one_mistake_is_not_enough(self):
        guess = self.DIGITS.copy()
        guess[4] = 7
        assert (
            confusion(predictions(self.DIGITS, guess), min_diag=0.5, max_off_diag=0.5, confidence_z=1.96).status
            is Status.OK
        )
        labels = np.repeat(self.DIGITS, 30)
        often = np.where((labels == 4) & (np.arange(300) % 3 > 0), 7, labels)
        assert confusion(predictions(labels, often), min_diag=0.5, confidence_z=1.96).status is Status.ISSUE

    def test_matrix_counts_rows_as_truth(self):
        matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        assert matrix.tolist() == [[1, 1], [0, 1]]


class TestCalibration:
    def test_error_equals_a_manual_calculation(self):
        labels, guess = np.zeros(200, dtype=int), np.where(np.arange(200) % 2, 1, 0)
        outcome = calibration(predictions(labels, guess, sure=0.9))
        assert outcome.status is Status.ISSUE
        assert outcome.details["expected_calibration_error"] == pytest.approx(0.4)
        assert str(outcome.suggestion) == "label_smoothing=0.1"

    def test_calibrated_model_is_ok(self):
        labels, guess = np.zeros(200, dtype=int), np.where(np.arange(200) % 10 == 0, 1, 0)
        assert calibration(predictions(labels, guess, sure=0.9)).status is Status.OK

    def test_underconfident_model_is_ok(self):
        labels = np.zeros(200, dtype=int)
        outcome = calibration(predictions(labels, labels, sure=0.7))
        assert outcome.status is Status.OK
        assert outcome.details["expected_calibration_error"] > 0.15

    def test_few_or_nan_predictions_are_insufficient(self):
        assert calibration(predictions([0], [0])).status is Status.INSUFFICIENT_DATA
        broken = predictions(np.zeros(200, dtype=int), np.zeros(200, dtype=int))
        broken.probabilities[3] = np.nan
        assert calibration(broken).status is Status.INSUFFICIENT_DATA


class TestLabelErrors:
    @staticmethod
    def noisy(share: float) -> tuple[Predictions, np.ndarray]:
        random = np.random.default_rng(0)
        truth = np.repeat(np.arange(5), 80)
        wrong = random.random(400) < share
        labels = np.where(wrong, (truth + 1) % 5, truth)
        probabilities = np.full((400, 5), 0.02) + np.eye(5)[truth] * random.uniform(0.7, 0.9, 400)[:, None]
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return Predictions(labels, probabilities, np.arange(400), tuple("abcde")), wrong

    def test_swapped_labels_are_found(self):
        given, wrong = self.noisy(0.1)
        found, likely, margin = confident_errors(given.labels, given.probabilities)
        assert set(found) == set(np.flatnonzero(wrong))
        assert (likely == (given.labels[found] - 1) % 5).all()
        assert (np.diff(margin) <= 0).all()
        assert likely_label_errors(given).status is Status.ISSUE

    def test_evidence_names_the_class_of_its_margin(self):
        # Class 1 is the most probable one, but far below its usual probability; class 2 is likely.
        labels = np.repeat([0, 1, 2], 100)
        probabilities = np.full((300, 3), 0.05) + 0.85 * np.eye(3)[labels]
        probabilities[0] = [0.05, 0.5, 0.45]
        probabilities[200:] = [0.3, 0.3, 0.4]
        given = Predictions(labels, probabilities, np.arange(300), tuple("abc"))
        seen = likely_label_errors(given).evidence[0]
        assert "margin of c" in seen.text
        assert seen.value == pytest.approx(0.4)

    def test_correct_labels_are_not_reported(self):
        given, _ = self.noisy(0.0)
        assert likely_label_errors(given).status is Status.OK

    def test_inaccurate_model_reports_no_label(self):
        random = np.random.default_rng(1)
        given = predictions(random.integers(0, 10, 300), random.integers(0, 10, 300))
        assert likely_label_errors(given).status is Status.INSUFFICIENT_DATA
