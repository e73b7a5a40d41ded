"""From a zip, a folder or an address to a checked data set under a URL: see `python -m launch.publish --help`."""
