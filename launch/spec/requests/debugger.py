"""AWS's own Debugger on a training job: what smdebug records, the managed rules, the profiler. Pure.

For accounts that still have it (`debugger.managed_rules=true`): AWS closed SageMaker Debugger to new customers on
2026-07-30, and a tuning job never carried it. Everywhere else our own rules look at the training.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError

TENSOR_RULES = (
    "VanishingGradient", "ExplodingTensor", "LossNotDecreasing", "Overfit", "Overtraining", "PoorWeightInitialization",
)  # fmt: skip
PROFILER_RULES = ("ProfilerReport", "LowGPUUtilization")
TENSORS = "/opt/ml/output/data/debug-output"
"""Where the job's smdebug hook writes, and SageMaker reads."""


def wants_managed_rules(cfg: DictConfig) -> bool:
    """Returns whether AWS's rules are to look at the training.

    Raises:
        UserError: they are, but nothing would be recorded for them.
    """
    if not OmegaConf.select(cfg, "debugger.managed_rules"):
        return False
    if not OmegaConf.select(cfg, "debugger.smdebug.enabled"):
        raise UserError("debugger.managed_rules=true: AWS's rules read what smdebug writes; add debugger=smdebug")
    return True


def debugger_fields(cfg: DictConfig, rules_image: str, output_path: str) -> dict[str, Any]:
    """Returns the Debugger's fields of a CreateTrainingJob request.

    Args:
        cfg: its `debugger` is read.
        rules_image: URI of the image that evaluates rules.
        output_path: the S3 folder of the job.
    """
    smdebug = cfg.debugger.smdebug
    every = {"save_interval": str(smdebug.save_interval)}
    collections = [{"CollectionName": name, "CollectionParameters": every} for name in smdebug.collections]
    return {
        "DebugHookConfig": {
            "S3OutputPath": f"{output_path}/debug-output",
            "LocalPath": TENSORS,
            "CollectionConfigurations": collections,
        },
        "DebugRuleConfigurations": [_rule(name, rules_image) for name in TENSOR_RULES],
        "ProfilerConfig": {
            "S3OutputPath": f"{output_path}/profiler-output",
            "ProfilingIntervalInMilliseconds": int(cfg.debugger.profiler.interval_ms),
        },
        "ProfilerRuleConfigurations": [_rule(name, rules_image) for name in PROFILER_RULES],
    }


def _rule(name: str, image: str) -> dict[str, Any]:
    return {"RuleConfigurationName": name, "RuleEvaluatorImage": image, "RuleParameters": {"rule_to_invoke": name}}
