from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.activations import dead_relu, poor_weight_initialization, saturated_activation
from dogbreed.debugger.rules.learning_rate import head_against_backbone, learning_rate_too_high, learning_rate_too_low
from dogbreed.debugger.rules.losses import loss_not_decreasing
from dogbreed.debugger.rules.tensors import all_zero, exploding_tensor, tensor_variance, vanishing_gradient
from dogbreed.debugger.rules.updates import similar_across_runs, unchanged_tensor, weight_update_ratio
from dogbreed.debugger.series import NodeActivity, Series, TensorSeries

RANDOM = np.random.default_rng(0)
TRAINABLE: frozenset[str] = frozenset()


def gradients(
    scale: float, steps: int = 5, name: str = "layer.weight", tags: frozenset[str] = TRAINABLE
) -> TensorSeries:
    return TensorSeries.of({name: {step: scale * RANDOM.normal(size=100) for step in range(steps)}}, {name: tags})


def updates(
    ratios: list[float], *, lr: list[float] | None = None, tags: dict | None = None, size: float = 1.0
) -> TensorSeries:
    values = np.array(ratios)[:, None] * size
    stats = {"abs_mean": values, "weight_abs_mean": np.full_like(values, size), "zero_fraction": np.zeros_like(values)}
    lr_array = None if lr is None else np.array(lr)
    return TensorSeries(("w",), np.arange(len(ratios)), stats, None, tags or {}, None, lr_array)


class TestVanishingGradient:
    def test_fires_on_tiny_gradients_and_not_on_usual_ones(self):
        assert vanishing_gradient(gradients(1e-9)).status is Status.ISSUE
        assert vanishing_gradient(gradients(1.5e-3)).status is Status.OK

    def test_value_equal_to_threshold_does_not_fire(self):
        series = TensorSeries.of({"w": {step: np.full(4, 1e-7) for step in range(3)}})
        assert vanishing_gradient(series).status is Status.OK

    def test_bias_before_batch_norm_is_skipped(self):
        assert vanishing_gradient(gradients(1e-9, tags=frozenset({"bias"}))).status is Status.NOT_APPLICABLE

    def test_two_steps_are_too_few(self):
        assert vanishing_gradient(gradients(1e-9, steps=2)).status is Status.INSUFFICIENT_DATA

    def test_one_small_step_among_others_is_no_issue(self):
        series = TensorSeries.of({"w": {0: np.zeros(4), 1: np.ones(4), 2: np.ones(4), 3: np.zeros(4)}})
        assert vanishing_gradient(series).status is Status.OK

    def test_zero_initialised_branch_is_ok_while_it_wakes_up(self):
        rising = TensorSeries.of({"w": {step: np.full(4, step * 1e-9) for step in range(6)}})
        stuck = TensorSeries.of({"w": {step: np.full(4, min(step, 2) * 1e-9) for step in range(6)}})
        assert vanishing_gradient(rising).status is Status.OK
        assert vanishing_gradient(stuck).status is Status.ISSUE

    def test_gradients_of_a_zero_loss_are_no_issue(self):
        losses = Series.of([1e-5] * 5)
        assert vanishing_gradient(gradients(1e-9), losses).status is Status.INSUFFICIENT_DATA

    def test_evidence_names_tensor_step_value_and_threshold(self):
        seen = vanishing_gradient(gradients(1e-9)).evidence[0]
        assert (seen.tensor, seen.step, seen.threshold) == ("layer.weight", 2, 1e-7)
        assert seen.value is not None and seen.value < 1e-8


class TestExplodingTensor:
    def test_one_nan_fires_and_is_named(self):
        series = TensorSeries.of(
            {"a": {0: np.ones(4), 1: np.ones(4)}, "b": {0: np.ones(4), 1: np.array([1.0, np.nan])}}
        )
        outcome = exploding_tensor({"gradients": series})
        assert outcome.status is Status.ISSUE
        assert (outcome.evidence[0].tensor, outcome.evidence[0].step) == ("b", 1)

    def test_infinity_fires_unless_only_nan(self):
        series = {"weights": TensorSeries.of({"a": {0: np.array([1.0, np.inf])}})}
        assert exploding_tensor(series).status is Status.ISSUE
        assert exploding_tensor(series, only_nan=True).status is Status.OK

    def test_steps_skipped_by_the_gradient_scaler_do_not_count(self):
        series = TensorSeries.of({"a": {0: np.array([np.inf]), 1: np.ones(1)}})
        skipped = TensorSeries(series.names, series.steps, series.stats, skipped=np.array([True, False]))
        assert exploding_tensor({"gradients": skipped}).status is Status.OK

    def test_first_in_forward_order_comes_first(self):
        series = TensorSeries.of({name: {3: np.array([np.nan])} for name in ("conv1", "conv2")})
        assert exploding_tensor({"weights": series}).evidence[0].tensor == "conv1"

    def test_nan_loss_fires(self):
        finite = {"weights": TensorSeries.of({"a": {0: np.ones(2)}})}
        assert exploding_tensor(finite, Series.of([1.0, float("nan")])).status is Status.ISSUE

    def test_tensor_missing_at_a_step_is_not_nan(self):
        series = TensorSeries.of({"a": {0: np.ones(2)}, "b": {1: np.ones(2)}})
        assert exploding_tensor({"weights": series}).status is Status.OK

    def test_unknown_collection_error_lists_collections(self):
        with pytest.raises(ValueError, match="weights"):
            exploding_tensor({"weights": gradients(1)}, collection_names=["wieghts"])


class TestAllZero:
    def test_zeros_fire(self):
        assert all_zero({"weights": TensorSeries.of({"w": {0: np.zeros(10)}})}, tensor_regex="w").status is Status.ISSUE

    def test_sixty_percent_fire_at_fifty(self):
        tensors = {"weights": TensorSeries.of({"w": {0: np.r_[np.zeros(6), np.ones(4)]}})}
        assert all_zero(tensors, tensor_regex="w", threshold=50).status is Status.ISSUE

    def test_almost_all_zero_does_not(self):
        tensors = {"weights": TensorSeries.of({"w": {0: np.r_[np.zeros(999), 1.0]}})}
        assert all_zero(tensors, tensor_regex="w").status is Status.OK

    def test_missing_collection_is_an_error(self):
        with pytest.raises(ValueError, match="collection_names"):
            all_zero({"weights": gradients(1)})

    def test_zero_biases_of_a_whole_collection_are_by_design(self):
        series = TensorSeries.of({"b": {0: np.zeros(9)}, "w": {0: np.ones(9)}}, {"b": frozenset({"bias"})})
        assert all_zero({"weights": series}, collection_names=["weights"]).status is Status.OK
        assert all_zero({"weights": series}, tensor_regex="^b$").status is Status.INSUFFICIENT_DATA


class TestTensorVariance:
    def test_variance_outside_thresholds_fires(self):
        wide = {"weights": TensorSeries.of({"w": {0: 10 * RANDOM.normal(size=1000)}})}
        constant = {"weights": TensorSeries.of({"w": {0: np.ones(1000)}})}
        usual = {"weights": TensorSeries.of({"w": {0: RANDOM.normal(size=1000)}})}
        assert tensor_variance(wide, tensor_regex="w", max_threshold=10).status is Status.ISSUE
        assert tensor_variance(constant, tensor_regex="w", min_threshold=1e-5).status is Status.ISSUE
        assert tensor_variance(usual, tensor_regex="w", max_threshold=10, min_threshold=1e-5).status is Status.OK

    def test_no_threshold_is_an_error_not_ok(self):
        with pytest.raises(ValueError, match="max_threshold"):
            tensor_variance({"weights": gradients(1)}, tensor_regex="w")


class TestUnchangedTensor:
    def test_oracle_ones_at_three_steps_fire_at_step_2(self):
        tensors = {
            "weights": TensorSeries.of({"w": {step: np.ones(10) for step in range(3)}, "other": {5: np.ones(10)}})
        }
        outcome = unchanged_tensor(tensors, tensor_regex=".")
        assert outcome.status is Status.ISSUE
        assert [(item.tensor, item.step) for item in outcome.evidence] == [("w", 2)]

    def test_update_outside_the_sample_counts(self):
        weights = TensorSeries.of({"w": {step: np.ones(10) for step in range(4)}})
        stats = {"abs_max": np.full((4, 1), 1e-2), "weight_abs_mean": np.ones((4, 1))}
        tensors = {"weights": weights, "updates": TensorSeries(("w",), np.arange(4), stats)}
        assert unchanged_tensor(tensors, collection_names="weights").status is Status.OK

    def test_two_values_are_too_few(self):
        tensors = {"weights": TensorSeries.of({"w": {0: np.ones(10), 1: np.ones(10)}})}
        assert unchanged_tensor(tensors, tensor_regex=".").status is Status.INSUFFICIENT_DATA

    def test_changing_tensor_does_not_fire(self):
        moving = {"weights": TensorSeries.of({"w": {step: np.full(10, 1 + step / 100) for step in range(5)}})}
        assert unchanged_tensor(moving, collection_names="weights").status is Status.OK

    def test_nan_is_unchanged_only_if_configured(self):
        tensors = {"weights": TensorSeries.of({"w": {step: np.full(10, np.nan) for step in range(3)}})}
        assert unchanged_tensor(tensors, tensor_regex=".").status is Status.OK
        assert unchanged_tensor(tensors, tensor_regex=".", equal_nan=True).status is Status.ISSUE


class TestUpdates:
    def test_ratio_outside_its_thresholds_fires(self):
        large, small = weight_update_ratio(updates([1e-3, 11.0])), weight_update_ratio(updates([1e-3, 1e-11]))
        assert large.status is small.status is Status.ISSUE
        assert (large.evidence[0].step, small.evidence[0].step) == (1, 1)
        assert weight_update_ratio(updates([1e-3, 2e-3])).status is Status.OK

    def test_zero_initialized_parameters_are_skipped(self):
        assert weight_update_ratio(updates([5.0, 5.0], size=0.0)).status is Status.NOT_APPLICABLE

    def test_zero_lr_counts_in_a_run_of_steps_but_not_in_warm_up(self):
        assert weight_update_ratio(updates([0.0, 1e-3], lr=[0.0, 1e-3])).status is Status.OK
        assert weight_update_ratio(updates([0.0, 0.0], lr=[0.0, 0.0])).status is Status.ISSUE

    @pytest.mark.parametrize(
        ("ratio", "high", "low"),
        [(0.5, Status.ISSUE, Status.OK), (1e-3, Status.OK, Status.OK), (1e-7, Status.OK, Status.ISSUE)],
    )
    def test_learning_rate_band(self, ratio, high, low):
        series = updates([ratio] * 4)
        assert learning_rate_too_high(series, None, {"lr": 0.01}).status is high
        assert learning_rate_too_low(series, None, {"lr": 0.01}).status is low

    def test_suggestion_starts_from_the_rate_of_the_run(self):
        assert str(learning_rate_too_high(updates([0.5] * 4), None, {"lr": 0.02}).suggestion) == "lr=0.002"

    def test_large_steps_that_learn_well_are_no_issue(self):
        falling, stuck = Series.of(list(np.linspace(2, 0.5, 20))), Series.of([2.0] * 20)
        assert learning_rate_too_high(updates([0.5] * 4), None, {"lr": 0.02}, falling).status is Status.OK
        assert learning_rate_too_high(updates([0.5] * 4), None, {"lr": 0.02}, stuck).status is Status.ISSUE
        assert str(learning_rate_too_low(updates([1e-9] * 4), None, {"lr": 0.0}).suggestion) == "lr=0.001"

    def test_weight_without_gradient_does_not_count(self):
        no_gradient = TensorSeries.of({"w": {step: np.zeros(4) for step in range(4)}})
        assert weight_update_ratio(updates([0.0] * 4), no_gradient).status is Status.INSUFFICIENT_DATA
        assert learning_rate_too_low(updates([0.0] * 4), no_gradient).status is Status.INSUFFICIENT_DATA

    def test_pretrained_backbone_faster_than_head_fires(self):
        stats = {"abs_mean": np.array([[0.04, 0.01]] * 3), "weight_abs_mean": np.ones((3, 2))}
        tags = {"stem": frozenset({"backbone", "pretrained"}), "fc": frozenset({"head"})}
        series = TensorSeries(("stem", "fc"), np.arange(3), stats, tags=tags)
        assert head_against_backbone(series).status is Status.ISSUE
        assert head_against_backbone(series, threshold=4.0).status is Status.OK
        assert head_against_backbone(updates([1e-3] * 4)).status is Status.NOT_APPLICABLE


class TestSimilarAcrossRuns:
    def test_first_difference_is_named(self):
        mine = {"weights": TensorSeries.of({"w": {0: np.ones(4), 1: np.ones(4)}})}
        theirs = {"weights": TensorSeries.of({"w": {0: np.ones(4), 1: 2 * np.ones(4)}})}
        outcome = similar_across_runs(mine, {"b": theirs})
        assert (outcome.status, outcome.evidence[0].step) == (Status.ISSUE, 1)
        assert similar_across_runs(mine, {"b": mine}).status is Status.OK

    def test_runs_without_a_common_step_are_insufficient(self):
        mine, theirs = ({"weights": TensorSeries.of({"w": {step: np.ones(4)}})} for step in (0, 1))
        assert similar_across_runs(mine, {"b": theirs}).status is Status.INSUFFICIENT_DATA


def layer(percent: float, kind: str = "relu", samples: int = 500) -> dict[str, NodeActivity]:
    """A layer of ten nodes, of which `percent` never fire."""
    inside = np.where(np.arange(10) < percent / 10, 0.0, 40.0)
    return {"act1": NodeActivity(kind, inside, samples)}


class TestActivationLayers:
    def test_dead_relu_fires_above_threshold(self):
        assert dead_relu(layer(100)).status is Status.ISSUE
        assert dead_relu(layer(50)).status is Status.OK  # equal to the threshold
        assert dead_relu(layer(100, samples=199)).status is Status.INSUFFICIENT_DATA

    def test_saturated_tanh_fires(self):
        assert saturated_activation(layer(100, "tanh")).status is Status.ISSUE
        assert saturated_activation(layer(0, "tanh")).status is Status.OK

    def test_variance_growing_across_layers_is_poor(self):
        inputs = TensorSeries.of(
            {f"act{i}": {s: 10.0**i * RANDOM.normal(size=100) for s in range(3)} for i in range(3)}
        )
        assert poor_weight_initialization(inputs).status is Status.ISSUE

    def test_zero_weights_are_poor(self):
        inputs = TensorSeries.of({f"act{i}": {s: np.zeros(100) for s in range(3)} for i in range(2)})
        assert poor_weight_initialization(inputs).status is Status.ISSUE

    def test_kaiming_weights_are_not(self):
        inputs = TensorSeries.of(
            {f"act{i}": {s: (1 + i) * RANDOM.normal(size=900) for s in range(3)} for i in range(2)}
        )
        outcome = poor_weight_initialization(inputs, gradients(7e-3), Series.of([2.0, 2.1, 2.2, 2.1, 2.2, 2.3, 2.1]))
        assert outcome.status is Status.OK

    def test_constant_gradient_fires_only_without_progress(self):
        inputs = TensorSeries.of({"act": {0: RANDOM.normal(size=100)}})
        stuck, falling = Series.of([2.0] * 11), Series.of(list(np.linspace(2, 1, 11)))
        assert poor_weight_initialization(inputs, gradients(1e-5), stuck).status is Status.ISSUE
        assert poor_weight_initialization(inputs, gradients(1e-5), falling).status is Status.OK

    def test_zero_initialised_branch_is_by_design(self):
        inputs = TensorSeries.of({"act": {0: RANDOM.normal(size=100)}})
        stuck = Series.of([2.0] * 11)
        steps = {0: np.zeros(100), 1: 1e-4 * RANDOM.normal(size=100)}
        healthy = {"gradient/fc": {0: RANDOM.normal(size=100), 1: RANDOM.normal(size=100)}}
        waking = TensorSeries.of({**healthy, "gradient/conv1": steps})
        dead = TensorSeries.of({**healthy, "gradient/conv1": {0: np.zeros(100), 1: np.zeros(100)}})
        assert poor_weight_initialization(inputs, waking, stuck).status is Status.OK
        assert poor_weight_initialization(inputs, dead, stuck).status is Status.ISSUE

    def test_pretrained_network_is_not_judged(self):
        inputs = TensorSeries.of({"act": {0: np.ones(3)}}, {"act": frozenset({"pretrained"})})
        assert poor_weight_initialization(inputs).status is Status.NOT_APPLICABLE


def test_loss_that_falls_slowly_never_ends_a_training():
    """0.1 nats in 100 steps with a noise of 0.15: as a rule of `stop_on`, it is evaluated at every recorded step."""

    def fires(seed: int, min_steps: int) -> bool:
        steps = np.arange(600)
        values = np.random.default_rng(seed).normal(4.6 - 0.001 * steps, 0.15)
        parts = (Series(steps[:end], values[:end]) for end in range(50, 600, 50))
        settings = {"against": "start", "min_steps": min_steps}
        return any(
            loss_not_decreasing(losses, {"num_classes": 100}, **settings).status is Status.ISSUE for losses in parts
        )

    assert sum(fires(seed, 0) for seed in range(30)) > 15
    assert not any(fires(seed, 200) for seed in range(30))
