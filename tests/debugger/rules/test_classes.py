from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.classes import class_imbalance, confusion, confusion_matrix
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
