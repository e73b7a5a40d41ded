# %% [markdown]
# # A sweep
#
# A sweep is one SageMaker request. Here it runs on this machine; `backend=sagemaker` sends the very same one to AWS.
# The words are those of `python -m launch.tune`: `KEY=VALUE` fixes a key, `KEY=RANGE` searches it.

# %% tags=["parameters"]
JOBS = 5
EPOCHS = 3
DATA = "demo://?classes=6&train=40&valid=20&test=20&size=32"

# %%
from launch.notebook import read_results, run_sweep

# %%
# %%capture
run_sweep(
    "name=notebook-sweep",
    "model=resnet18",
    "lr=tag(log,interval(1e-4,3e-2))",
    "optimizer=adamw,sgd",
    f"data.url='{DATA}'",
    f"epochs={EPOCHS}",
    f"tuner.max_jobs={JOBS}",
)

# %% [markdown]
# Everything a sweep did lies in `outputs/NAME/`, so that it can be looked at again at any time: all trials, best
# first, with what the debugger found in them; the objective against what was searched; the learning curves.

# %%
sweep = read_results("notebook-sweep")
sweep

# %% [markdown]
# The rows go into a `pandas.DataFrame` as they are, and these words train the best trial again:

# %%
sweep.trials[0]

# %%
sweep.best_overrides
