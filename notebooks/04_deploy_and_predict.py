# %% [markdown]
# # Deploy a model and query it
#
# A training writes a model folder: weights as safetensors, a JSON card, and SageMaker's inference code. An endpoint on
# this machine is a process that answers over HTTP; `backend=sagemaker` creates the same endpoint on AWS.

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
# Query images that it was not trained on: here generated ones, published into a folder.

# %%
# %%capture
# !python -m launch.publish "demo://?classes=6&train=1&valid=1&test=10&size=32" photos

# %%
# !python -m launch.predict notebook-dogs photos/test/*/0000.jpg

# %% [markdown]
# A folder or an S3 prefix is queried in batches. If its folders are classes, the accuracy is printed; each answer is
# a line of a CSV file.

# %%
# !python -m launch.predict notebook-dogs photos/test output=predictions.csv | grep accuracy

# %%
import csv

with open("predictions.csv") as file:
    rows = list(csv.DictReader(file))
rows[0]

# %% [markdown]
# Delete the endpoint when you are done: locally it uses memory, on AWS it costs money by the hour.

# %%
# %%capture
# !python -m launch.undeploy notebook-dogs

# %%
# !python -m launch.endpoints
