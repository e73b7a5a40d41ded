"""When a tuning job ends before its last job."""

import pytest

from launch.local.tuning.completion import Completion


def completion(goal="Maximize", **criteria):
    return Completion(
        {
            "HyperParameterTuningJobObjective": {"Type": goal, "MetricName": "m"},
            "TuningJobCompletionCriteria": criteria,
        }
    )


def add(found, *values):
    for value in values:
        found.add("Completed", value)
    return found


@pytest.mark.parametrize(("goal", "values"), [("Maximize", (0.5, 0.8)), ("Minimize", (0.9, 0.5))])
def test_target_is_a_completion_criterion(goal, values):
    found = completion(goal, TargetObjectiveMetricValue=0.75)
    assert add(found, values[0]).reached_criterion() is None
    assert "reaches the target 0.75" in add(found, values[1]).reached_criterion()


def test_best_not_improving_is_a_criterion():
    found = completion(BestObjectiveNotImproving={"MaxNumberOfTrainingJobsNotImproving": 3})
    assert add(found, 0.5, 0.4, 0.6, 0.5, 0.6).reached_criterion() is None
    assert add(found, 0.1).reached_criterion() == "the best objective did not improve in 3 training jobs"
    assert found.not_improving == 3


def test_convergence_needs_improvements_under_one_percent():
    found = completion(ConvergenceDetected={"CompleteOnConvergence": "Enabled"})
    add(found, 0.8, *(0.8 + 0.0005 * step for step in range(1, 10)))
    assert found.reached_criterion() is None
    assert add(found, 0.807).reached_criterion() == "converged: no improvement over 1 % in 10 training jobs"
    assert found.converged_at
    silent = add(completion(), 0.8, *(0.8 for _ in range(20)))
    assert silent.reached_criterion() is None


def test_five_failed_jobs_fail_the_tuning_job():
    found = completion()
    for _ in range(4):
        found.add("Failed", None)
    assert found.failure_reason(ended=False) is None
    assert found.failure_reason(ended=True).startswith("No training job succeeded after 4 attempts")
    found.add("Failed", None)
    assert found.failure_reason(ended=False).startswith("No training job succeeded after 5 attempts")
    assert add(found, 0.5).failure_reason(ended=True) is None


def test_five_jobs_without_objective_fail_the_tuning_job():
    found = completion()
    for _ in range(5):
        found.add("Completed", None)
    assert found.failure_reason(ended=False).startswith("No objective metrics found after running 5 training jobs")
