# %% [markdown]
# # A sweep
#
# A sweep is one SageMaker request. Here it runs on this machine; `backend=sagemaker` sends the same request to AWS.
# The arguments are those of `python -m launch.tune`: `KEY=VALUE` fixes a key, `KEY=RANGE` searches it.

# %% tags=["parameters"]
JOBS = 4
EPOCHS = 6
DATA = "demo://?classes=6&train=60&valid=20&test=20&size=32"

# %%
from launch.notebook import read_results, run_sweep

# %%
# %%capture
run_sweep(
    "name=notebook-sweep",
    "model=resnet18",
    "lr=tag(log,interval(3e-4,1e-2))",
    "weight_decay=choice(0.0,0.01)",
    f"data.url='{DATA}'",
    f"epochs={EPOCHS}",
    f"tuner.max_jobs={JOBS}",
)

# %% [markdown]
# The results are in `outputs/NAME/` and can be read again at any time: all trials, best first, with their findings;
# the objective against each searched parameter; the learning curves.

# %%
sweep = read_results("notebook-sweep")
sweep

# %% [markdown]
# `pandas.DataFrame(sweep.trials)` works directly. These overrides train the best trial again:

# %%
sweep.trials[0]

# %%
sweep.best_overrides
