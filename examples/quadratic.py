"""A separate Hydra application: a SageMaker tuning job on this machine searches the minimum of a curve.

python examples/quadratic.py --multirun hydra/sweeper=sagemaker 'x=interval(-4.0,4.0)' shift=0,1
"""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=".", config_name="quadratic")
def main(cfg: DictConfig) -> float:
    """Returns the height of the curve at `cfg.x`."""
    return (cfg.x - 1) ** 2 + cfg.shift


if __name__ == "__main__":
    main()
