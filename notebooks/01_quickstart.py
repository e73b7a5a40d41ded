# %% [markdown]
# # Train a classifier in ten lines
#
# Generated breeds stand in for photographs here, so this notebook needs no data, no network and no GPU. With your own
# images, `"demo://..."` is a folder or an `s3://bucket/prefix` with one sub-folder a class.

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
# Any [timm](https://github.com/huggingface/pytorch-image-models) backbone gets a new head. `weights="hub"`, the
# default, takes pretrained weights and trains the head alone; generated images are learned from random weights.

# %%
model = ImageClassifier("resnet18", data.classes, weights="random", finetune="full", lr=1e-3)
trainer = pl.Trainer(
    max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)

# %% [markdown]
# ## What it gets wrong
#
# The images of the test that it is most wrong about: what they are, and what it takes them for.

# %%
show_mistakes(model, data)
