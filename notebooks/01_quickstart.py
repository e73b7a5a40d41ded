# %% [markdown]
# # Train a classifier in ten lines
#
# This notebook trains on generated images, so it needs no data, no network and no GPU. For your own images, replace
# `"demo://..."` with a folder or an `s3://bucket/prefix` that has one sub-folder per class.

# %% tags=["parameters"]
EPOCHS = 6
DATA = "demo://?classes=6&train=60&valid=20&test=20&size=32"

# %%
import logging
import warnings

import pytorch_lightning as pl

from dogbreed import ImageClassifier, ImageDataModule, show_images, show_mistakes

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

# %% [markdown]
# The images are streamed: nothing is downloaded first. A few of them, with the names of their classes:

# %%
data = ImageDataModule(DATA)
show_images(data)

# %% [markdown]
# Any [timm](https://github.com/huggingface/pytorch-image-models) backbone gets a new head. By default the weights are
# pretrained (`weights="hub"`) and only the head is trained. Generated images are learned from random weights.

# %%
model = ImageClassifier("resnet18", data.classes, weights="random", finetune="full", lr=1e-3)
data.input_spec = model.input_spec
trainer = pl.Trainer(
    max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)

# %% [markdown]
# ## What it gets wrong
#
# The test images with the highest loss, with their class and the predicted class:

# %%
show_mistakes(model, data)
