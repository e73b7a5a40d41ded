"""SageMaker on this machine over HTTP: `python -m launch.local.server`, see `launch.local.api.http`."""

from launch.local.api import http

if __name__ == "__main__":
    http.run()
