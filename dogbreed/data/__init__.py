"""Images and labels: class folders under a URL, streamed into uint8 batches."""
