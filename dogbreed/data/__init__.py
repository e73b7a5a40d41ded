"""Where images come from: folders, S3 or a generator, streamed into uint8 batches."""
