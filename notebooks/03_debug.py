# %% [markdown]
# # What went wrong?
#
# Callbacks record what goes on inside a training; rules look at it afterwards. Here the learning rate is far too high,
# as if by mistake.

# %% tags=["parameters"]
EPOCHS = 3
DATA = "demo://?classes=6&train=60&valid=20&test=20&size=32"

# %%
import logging
import warnings

import pytorch_lightning as pl

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.debugger import ImageHasher, PredictionRecorder, TensorDebugger, write_report

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

# %%
folder = "outputs/notebook-debug"
data = ImageDataModule(DATA)
model = ImageClassifier("resnet18", data.classes, weights="random", finetune="full", lr=0.3)
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    callbacks=[TensorDebugger(folder), PredictionRecorder(folder), ImageHasher(folder)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)

# %% [markdown]
# The findings, each with what was seen and one override to try, and below them the report: one file that needs no
# network, also in the run's folder as `report.html`.

# %%
report = write_report(folder, say=False)
report

# %% [markdown]
# `SystemProfiler(folder)` among the callbacks adds where the time went: CPU, GPU, memory, and the parts of each step.
# With `python -m dogbreed.train` and in every trial of a sweep all of them are on by themselves.
