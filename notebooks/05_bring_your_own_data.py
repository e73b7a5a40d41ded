# %% [markdown]
# # Your own images
#
# The source is a folder with one sub-folder per class, with or without `train`, `valid` and `test` above them, a zip
# archive of that, or its URL. Publishing checks every image, repairs what it can without loss, and copies the images to
# where trainings read them: here a folder, usually `s3://bucket/prefix`.

# %% tags=["parameters"]
EPOCHS = 4

# %% [markdown]
# Generated images stand for your own, with three typical faults: a copy of a test image in train, a truncated file, and
# a wrong extension.

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
# Everything skipped or repaired is listed, and no image was re-encoded. Running the same command again uploads nothing.
# With your archive and bucket it is `python -m launch.publish dogImages.zip s3://BUCKET/dogImages`.

# %%
# !python -m launch.publish outputs/my-dogs outputs/published-dogs

# %% [markdown]
# Train on the published images:

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
data.input_spec = model.input_spec
trainer = pl.Trainer(
    max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)
