# %% [markdown]
# # What went wrong?
#
# Callbacks record what happens inside a training; rules evaluate the records afterwards. Here the learning rate is far
# too high.

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
data.input_spec = model.input_spec
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
# The findings, each with its evidence and one override to try, and below them the report. It is one file that needs no
# network: `report.html` in the folder of the run.

# %%
report = write_report(folder, print_findings=False)
report

# %% [markdown]
# `SystemProfiler(folder)` also records CPU, GPU, memory and the parts of each step. `python -m dogbreed.train` and
# every trial of a sweep use all of these callbacks by default.
