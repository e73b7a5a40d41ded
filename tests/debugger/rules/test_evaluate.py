from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap

import pytest

from dogbreed.debugger.findings import Evidence, Status, issue, ok
from dogbreed.debugger.recording import INPUTS, Recording
from dogbreed.debugger.rules.evaluate import all_rules, configured_rules, evaluate, merged_rules
from dogbreed.debugger.series import Series
from dogbreed.errors import UserError

AWS_RULES = [
    "VanishingGradient",
    "ExplodingTensor",
    "PoorWeightInitialization",
    "SaturatedActivation",
    "DeadRelu",
    "WeightUpdateRatio",
    "AllZero",
    "TensorVariance",
    "UnchangedTensor",
    "LossNotDecreasing",
    "Overfit",
    "Overtraining",
    "ClassImbalance",
    "Confusion",
    "SimilarAcrossRuns",
    "CheckInputImages",
    "StalledTraining",
    "BatchSize",
    "CPUBottleneck",
    "GPUMemoryIncrease",
    "IOBottleneck",
    "LoadBalancing",
    "LowGPUUtilization",
    "OverallSystemUsage",
    "MaxInitializationTime",
    "OverallFrameworkMetrics",
    "StepOutlier",
    "Dataloader",
]
ADDED_RULES = [
    "LearningRateTooHigh",
    "LearningRateTooLow",
    "InitialLoss",
    "Calibration",
    "TrainValOverlap",
    "NearDuplicates",
    "CorruptImages",
    "LikelyLabelErrors",
    "DataWait",
    "HeadAgainstBackbone",
    "BestEpoch",
]


def loss_above(losses, val_losses=None, *, limit=3.0):
    """Detects a high loss."""
    worst = float(losses.values.max())
    if worst > limit:
        return issue("too high", "lr=0.001", [Evidence("loss", value=worst, threshold=limit)], datapoints=len(losses))
    return ok("low", datapoints=len(losses))


def broken(losses):
    raise KeyError("no such key")


def test_all_rules_are_documented_and_name_known_inputs():
    rules = all_rules()
    assert set(rules) == {*AWS_RULES, *ADDED_RULES}
    assert {rule.name for rule in rules.values() if rule.aws_name} == set(AWS_RULES)
    for rule in rules.values():
        doc = rule.function.__doc__ or ""
        assert "    Source: " in doc and "    Statuses:" in doc, rule.name
        assert rule.description.startswith(("Detects ", "Summarizes ")) and rule.description.endswith("."), rule.name
        assert {*rule.required, *rule.optional} <= set(INPUTS), rule.name
        for parameter in rule.defaults:
            assert f"        {parameter}:" in doc, f"{rule.name}.{parameter} is not in its docstring"


def test_evaluate_empty_recording_is_never_ok():
    findings = evaluate(Recording())
    assert len(findings) == len(all_rules())
    assert {item.status for item in findings} == {Status.NOT_APPLICABLE, Status.INSUFFICIENT_DATA}
    assert all(item.outcome.summary for item in findings)


def test_evaluate_custom_rule_by_its_path():
    recording = Recording(inputs={"losses": Series.of([5.0, 1.0])})
    path = f"{__name__}.loss_above"
    [finding] = evaluate(recording, {"LossAbove": path}, only=["LossAbove"])
    assert (finding.status, finding.line()) == (Status.ISSUE, "finding=LossAbove status=issue count=1")
    [finding] = evaluate(recording, {"LossAbove": {"_target_": path, "limit": 6}}, only=["LossAbove"])
    assert finding.status is Status.OK


def test_evaluate_failing_rule_is_status_error():
    recording = Recording(inputs={"losses": Series.of([5.0])})
    [finding] = evaluate(recording, {"Broken": f"{__name__}.broken"}, only=["Broken"])
    assert finding.status is Status.ERROR
    assert "KeyError" in finding.outcome.summary


def test_evaluate_wrong_setting_value_is_status_error():
    recording = Recording(inputs={"losses": Series.of([5.0, 4.0])})
    [finding] = evaluate(recording, {"LossNotDecreasing": {"against": "end"}}, only=["LossNotDecreasing"])
    assert finding.status is Status.ERROR


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"Overfitt": {"patience": 3}}, "did you mean Overfit"),
        ({"Overfit": {"patiense": 3}}, "did you mean patience"),
        ({"Mine": "no.such.rule"}, "no rule function at"),
    ],
)
def test_configured_rules_mistake_names_the_right_key(config, message):
    with pytest.raises(UserError, match=message):
        configured_rules(config)


def test_configured_rules_off_and_changed():
    chosen = {
        rule.name: settings for rule, settings in configured_rules({"Overfit": False, "AllZero": {"threshold": 50}})
    }
    assert "Overfit" not in chosen
    assert chosen["AllZero"] == {"collection_names": ["weights"], "threshold": 50}


def test_configured_rules_by_aws_name():
    chosen = {rule.name: settings for rule, settings in configured_rules({"StalledTrainingRule": {"threshold": 60}})}
    assert set(chosen) == set(all_rules())
    assert chosen["StalledTraining"] == {"threshold": 60}


def test_merged_rules_later_settings_win():
    run = {"Overfit": {"ratio_threshold": 0.1, "patience": 1}, "Mine": "my.rule", "AllZero": {"threshold": 5}}
    later = {"Overfit": {"patience": 2}, "Mine": {"limit": 3}, "AllZero": True, "DeadRelu": False}
    assert merged_rules(run, later) == {
        "Overfit": {"ratio_threshold": 0.1, "patience": 2},
        "Mine": {"_target_": "my.rule", "limit": 3},
        "AllZero": {"threshold": 5},
        "DeadRelu": False,
    }
    assert merged_rules(run, {"Overfit": None})["Overfit"] is None
    assert merged_rules(None, None) == {}


def test_import_of_rules_needs_no_torch():
    code = "import dogbreed.debugger.rules.evaluate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", all_rules())
def test_every_setting_of_a_rule_is_used(name: str):
    """A setting that is declared but never read, as an AWS parameter once was, cannot do anything."""
    item = all_rules()[name]
    function = ast.parse(textwrap.dedent(inspect.getsource(item.function))).body[0]
    used = {node.id for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)}
    read_by_the_report = {"other_trials"}
    assert set(item.defaults) - used <= read_by_the_report
