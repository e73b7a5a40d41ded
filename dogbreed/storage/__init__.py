"""Objects under a URL: a folder, an S3 prefix or a generated data set."""
