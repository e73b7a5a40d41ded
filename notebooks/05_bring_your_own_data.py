# %% [markdown]
# # Your own images
#
# One folder a class, with or without `train`, `valid` and `test` above them; a zip of that, or its address. Publishing
# checks every image, mends what can be mended without loss, and puts the rest where trainings read it: a folder here,
# `s3://bucket/prefix` in earnest.

# %% tags=["parameters"]
EPOCHS = 4

# %% [markdown]
# Generated images play the part of your own. Then things go wrong with them, as they do: a copy of a test image
# strays into train, a download breaks off, a suffix is wrong.

# %%
# %%capture
# !python -m launch.publish "demo://?classes=4&train=60&valid=15&test=15&size=32" outputs/my-dogs

# %%
# !cp outputs/my-dogs/test/001.Spotted_terrier/0003.jpg outputs/my-dogs/train/001.Spotted_terrier/cute.jpg
# !head -c 700 outputs/my-dogs/train/002.Brindle_mastiff/0001.jpg > outputs/my-dogs/train/002.Brindle_mastiff/broken.jpg
# !cp outputs/my-dogs/train/003.Piebald_pinscher/0002.jpg outputs/my-dogs/train/003.Piebald_pinscher/other.png

# %%
# !python -m launch.publish outputs/my-dogs outputs/published-dogs

# %% [markdown]
# Everything that was left out or mended is named, and nothing was encoded again. The same command once more finds all
# of it there; with your archive and bucket it is
# `python -m launch.publish dogImages.zip s3://BUCKET/dogImages`.

# %%
# !python -m launch.publish outputs/my-dogs outputs/published-dogs

# %% [markdown]
# What was published is data like any other:

# %%
import logging
import warnings

import pytorch_lightning as pl

from dogbreed import ImageClassifier, ImageDataModule, show_images

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

data = ImageDataModule("outputs/published-dogs", image_size=32)
show_images(data, "test", 6)

# %%
model = ImageClassifier("resnet18", data.classes, weights="random", finetune="full", lr=1e-3)
trainer = pl.Trainer(
    max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)
