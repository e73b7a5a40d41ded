from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.confidence import calibration, confident_errors, likely_label_errors
from dogbreed.debugger.series import Predictions
from tests.debugger.rules.test_classes import predictions


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
