"""Lightning callbacks that record a training while it runs."""
