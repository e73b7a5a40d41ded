"""AWS: accounts, images, source archives, logs, errors."""
