# %% [markdown]
# # From a training to an answer
#
# A training leaves a model folder: weights as safetensors, a JSON card, and SageMaker's inference code. An endpoint on
# this machine is a process that answers over HTTP; `backend=sagemaker` makes the same one at AWS.

# %% tags=["parameters"]
EPOCHS = 10
DATA = "demo://?classes=6&train=60&valid=20&test=20&size=32"

# %%
# %%capture
# !python -m launch.train name=notebook-train model=resnet18 epochs={EPOCHS} lr=0.004 "data.url='{DATA}'"

# %%
# %%capture
# !python -m launch.deploy from_training=notebook-train name=notebook-dogs

# %% [markdown]
# Some photos to ask about that it was not trained on: here generated ones, published into a folder.

# %%
# %%capture
# !python -m launch.publish "demo://?classes=6&train=1&valid=1&test=10&size=32" photos

# %%
# !python -m launch.predict notebook-dogs photos/test/*/0000.jpg

# %% [markdown]
# A folder, or an S3 prefix, is asked about in batches. Where its folders are classes, the accuracy is told; every
# answer is a line of a CSV.

# %%
# !python -m launch.predict notebook-dogs photos/test output=predictions.csv | grep accuracy

# %%
import csv

with open("predictions.csv") as file:
    rows = list(csv.DictReader(file))
rows[0]

# %% [markdown]
# An endpoint of this machine takes memory, one at AWS costs money by the hour, until it is removed:

# %%
# %%capture
# !python -m launch.undeploy notebook-dogs

# %%
# !python -m launch.endpoints
