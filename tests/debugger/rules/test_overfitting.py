from __future__ import annotations

import math

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.losses import initial_loss, loss_not_decreasing
from dogbreed.debugger.rules.overfitting import best_epoch, overfit, overtraining
from dogbreed.debugger.rules.stalls import max_initialization_time, stalled_training
from dogbreed.debugger.series import Series


class TestLossNotDecreasing:
    ORACLE = Series.of([0.3, 0.33, 0.31, 0.30, 0.28], [0, 4, 8, 12, 16])

    def test_oracle_fires_at_12_only(self):
        outcome = loss_not_decreasing(self.ORACLE, num_steps=10, diff_percent=0)
        assert [item.step for item in outcome.evidence] == [12]
        assert "since step 0" in outcome.evidence[0].text

    @pytest.mark.xfail(
        reason="AWS's test expects step 24 with diff_percent=20; its documentation, followed here, requires a 20 % drop"
    )
    def test_oracle_with_diff_percent(self):
        losses = Series.of([0.3, 0.33, 0.31, 0.30, 0.28, 0.2, 0.42], [0, 4, 8, 12, 16, 20, 24])
        assert [item.step for item in loss_not_decreasing(losses, diff_percent=20).evidence] == [24]

    def test_rise_of_forty_percent_fires_and_a_fall_does_not(self):
        assert loss_not_decreasing(Series.of([0.3, 0.42], [0, 10])).status is Status.ISSUE
        assert loss_not_decreasing(Series.of([0.28, 0.2], [0, 10])).status is Status.OK

    def test_monotone_decay_is_ok(self):
        assert loss_not_decreasing(Series.of(list(np.exp(-np.arange(100) / 20)))).status is Status.OK

    @pytest.mark.parametrize("losses", [[], [0.3]])
    def test_few_values_are_insufficient(self, losses):
        assert loss_not_decreasing(Series.of(losses)).status is Status.INSUFFICIENT_DATA

    def test_nan_is_not_lower(self):
        assert loss_not_decreasing(Series.of([0.3, math.nan], [0, 10])).status is Status.ISSUE

    def test_against_start_ignores_noise_and_plateaus(self):
        random = np.random.default_rng(0)
        noise = Series.of(list(2 + 0.1 * random.normal(size=200)))
        learned = Series.of(list(2 * np.exp(-np.arange(200) / 20) + 0.5 + 0.1 * random.normal(size=200)))
        assert loss_not_decreasing(noise, against="start").status is Status.ISSUE
        assert loss_not_decreasing(learned, against="start").status is Status.OK
        assert loss_not_decreasing(learned).status is Status.ISSUE  # AWS's own test fires on the plateau

    def test_against_start_of_a_slow_fall_does_not_fire_early(self):
        noise = 0.15 * np.random.default_rng(0).normal(size=(200, 50))
        outcomes = [loss_not_decreasing(Series.of(row), against="start") for row in 2.3 - 0.002 * np.arange(50) + noise]
        assert sum(outcome.status is Status.ISSUE for outcome in outcomes) < 5

    def test_against_start_of_a_solved_head_is_ok(self):
        random = np.random.default_rng(0)
        flat = Series.of(list(0.3 + 0.01 * random.normal(size=200)))
        rising = Series.of(list(np.linspace(0.3, 0.9, 200)))
        assert loss_not_decreasing(flat, against="start").status is Status.ISSUE
        assert loss_not_decreasing(flat, {"num_classes": 120}, against="start").status is Status.OK
        assert loss_not_decreasing(rising, {"num_classes": 120}, against="start").status is Status.ISSUE

    def test_against_start_evidence_is_beyond_its_threshold(self):
        seen = loss_not_decreasing(Series.of([2.0] * 200), against="start").evidence[0]
        assert seen.value < seen.threshold

    def test_against_start_of_a_diverged_training_fires(self):
        wild = Series.of(list(np.exp(4 * np.random.default_rng(1).normal(size=60))))
        assert loss_not_decreasing(wild, {"num_classes": 4}, against="start").status is Status.ISSUE

    def test_unknown_mode_is_an_error(self):
        with pytest.raises(ValueError, match="window"):
            loss_not_decreasing(self.ORACLE, against="end")


class TestOverfit:
    def test_gap_fires_and_a_small_one_does_not(self):
        assert overfit(Series.of([0.1]), Series.of([0.2])).status is Status.ISSUE
        assert overfit(Series.of([0.5]), Series.of([0.52])).status is Status.OK

    def test_patience_counts_epochs_in_a_row(self):
        train, val = Series.of([0.1, 0.1, 0.1, 0.1]), Series.of([0.2, 0.2, 0.1, 0.2])
        assert overfit(train, val, patience=3).status is Status.OK

    def test_no_epoch_in_common_is_insufficient(self):
        assert overfit(Series.of([0.1], [0]), Series.of([0.2], [1])).status is Status.INSUFFICIENT_DATA

    @pytest.mark.parametrize("train", [[2.0, 90.0, 80.0], [90.0, 80.0, 70.0]])
    def test_diverged_training_is_not_overfitting(self, train):
        outcome = overfit(Series.of(train), Series.of([3.0, 500.0, 400.0]), {"num_classes": 10}, ratio_threshold=0.6)
        assert outcome.status is Status.OK

    def test_nan_epochs_are_skipped(self):
        assert overfit(Series.of([math.nan, 0.5]), Series.of([0.2, 0.52])).datapoints == 1


class TestOvertraining:
    def test_best_epoch_and_wasted_epochs_are_reported(self):
        val = Series.of([abs(epoch - 5) * 0.05 + 0.3 for epoch in range(20)])
        outcome = overtraining(Series.of(list(np.linspace(1, 0.1, 20))), val)
        assert outcome.status is Status.ISSUE
        assert (outcome.evidence[0].step, outcome.evidence[0].value) == (5, 14)
        assert str(outcome.suggestion) == "epochs=6"

    def test_improving_validation_is_ok(self):
        falling = Series.of(list(np.linspace(2, 0.5, 20)))
        assert overtraining(falling, falling).status is Status.OK

    def test_stagnation_of_both_losses_fires_sooner(self):
        flat = Series.of([1.0] * 8)
        assert overtraining(flat, flat).status is Status.ISSUE


class TestBestEpoch:
    def test_best_epoch_is_by_accuracy_if_available(self):
        losses = Series.of([1.0, 0.5, 0.9])
        assert best_epoch(losses, Series.of([0.5, 0.9, 0.8])).status is Status.ISSUE
        assert best_epoch(losses, Series.of([0.5, 0.8, 0.9])).status is Status.OK

    def test_best_epoch_is_by_loss_otherwise(self):
        assert best_epoch(Series.of([1.0, 0.5, 0.9])).status is Status.ISSUE
        assert best_epoch(Series.of([1.0])).status is Status.INSUFFICIENT_DATA


@pytest.mark.parametrize(
    ("loss", "status"), [(2.3, Status.OK), (30.0, Status.ISSUE), (math.nan, Status.ISSUE), (0.1, Status.OK)]
)
def test_initial_loss_fires_far_from_log_classes(loss, status):
    assert initial_loss(Series.of([loss]), {"num_classes": 10}).status is status


def test_initial_loss_of_a_resumed_training_is_unknown():
    assert initial_loss(Series.of([30.0], [500]), {"num_classes": 10}).status is Status.INSUFFICIENT_DATA


def test_stalled_training_fires_after_its_limit():
    assert stalled_training(np.array([0.0, 1801.0])).status is Status.ISSUE
    assert stalled_training(np.array([0.0, 1799.0])).status is Status.OK
    assert stalled_training(np.array([0.0, 1800.0])).status is Status.OK
    assert stalled_training(np.array([0.0])).status is Status.INSUFFICIENT_DATA


def test_max_initialization_time_fires_above_threshold():
    assert max_initialization_time({"initialization_s": 21 * 60}).status is Status.ISSUE
    assert max_initialization_time({"initialization_s": 2 * 60}).status is Status.OK
    assert max_initialization_time({}).status is Status.NOT_APPLICABLE
