"""Compares an endpoint with a minimal server of the same model: requests per second and latency at 1, 8 and 32 clients.

    python benchmarks/serving.py outputs/NAME/model PHOTOS [SECONDS [ROUNDS]]

PHOTOS is a folder of JPEGs. Needs wrk (`apt-get install wrk`; one thread with negligible load) and, for the peer,
fastapi, which `pip install 'dogbreed[sagemaker]'` includes. The peer is a typical first version: one FastAPI route,
Pillow, torchvision's transforms, one forward pass per request, in inference mode. Both servers run all the time and are
measured alternately, so that other load on the machine affects both; results are medians over rounds. CPU is the time
of the server's process per request, all threads together.
"""

import io
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

CLIENTS = (1, 8, 32)

_POST = """
local bodies = {}
for path in io.lines("LIST") do
  local file = io.open(path, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
end
local at = 0
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/invocations", {["Content-Type"] = "image/jpeg"}, bodies[at])
end
done = function(summary, latency, requests)
  print(string.format("RESULT %d %d %d %f %f", summary.requests, summary.duration, summary.errors.status
    + summary.errors.read + summary.errors.write + summary.errors.timeout + summary.errors.connect,
    latency:percentile(50), latency:percentile(99)))
end
"""


def plain_server(folder: Path, port: int) -> None:
    """Serves the model as in a tutorial."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    from dogbreed.serving.model_folder import load_net, read_card

    card = read_card(folder)
    net = load_net(folder, card)
    transform = transforms.Compose([
        transforms.Resize(round(card.input_size[1] / card.crop_pct), InterpolationMode(card.interpolation)),
        transforms.CenterCrop(card.input_size[1]),
        transforms.ToTensor(),
        transforms.Normalize(card.mean, card.std),
    ])  # fmt: skip
    app = FastAPI()

    @app.get("/ping")
    def ping():
        return {"status": "ok"}

    @app.post("/invocations")
    async def invocations(request: Request):
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        with torch.inference_mode():
            probabilities = net(transform(image)[None]).softmax(-1)[0]
        confidence, index = probabilities.max(0)
        return {"predicted_label": card.labels[index], "confidence": float(confidence)}

    uvicorn.run(app, port=port, log_level="warning")


def start(command: list[str], port: int) -> psutil.Process:
    process = psutil.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    for _ in range(1200):
        time.sleep(0.1)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
    process.kill()
    raise SystemExit(f"{command} does not answer")


def ask(server: psutil.Process, port: int, clients: int, seconds: str, script: Path) -> tuple[float, ...]:
    """Returns requests per second, p50, p99 and CPU per request in ms, and the number of failed requests."""
    before = sum(server.cpu_times()[:2])
    done = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script),
         f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    numbers = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", done.stdout)
    if numbers is None:
        raise SystemExit(done.stdout + done.stderr)
    requests, duration, errors, p50, p99 = (float(text) for text in numbers.groups())
    cpu = (sum(server.cpu_times()[:2]) - before) / requests
    return requests / duration * 1e6, p50 / 1000, p99 / 1000, cpu * 1000, errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def main(model: str, photos: str, seconds: str = "5", rounds: str = "2") -> None:
    ports = {"dogbreed": free_port(), "plain FastAPI": free_port()}
    commands = {
        "dogbreed": ["-m", "dogbreed.serving.server", "--model-dir", model, "--port", str(ports["dogbreed"])],
        "plain FastAPI": [__file__, "--plain", model, str(ports["plain FastAPI"])],
    }
    servers = {name: start([sys.executable, *commands[name]], port) for name, port in ports.items()}
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = sorted(
            str(path.resolve()) for path in Path(photos).iterdir() if path.suffix.lower() in (".jpg", ".jpeg")
        )
        (Path(folder) / "list").write_text("\n".join(names) + "\n")
        script = Path(folder) / "post.lua"
        script.write_text(_POST.replace("LIST", f"{folder}/list"))
        try:
            for name, port in ports.items():
                ask(servers[name], port, 8, "2", script)  # warms up
            for _ in range(int(rounds)):
                for clients in CLIENTS:
                    for name, port in ports.items():
                        found.setdefault((name, clients), []).append(ask(servers[name], port, clients, seconds, script))
        finally:
            for server in servers.values():
                server.terminate()
    print(f"{len(names)} photos, {os.cpu_count()} cores, {rounds} rounds of {seconds} s")
    print(f"{'clients':>7} {'server':<14} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>7} {'failed':>6}")
    table = {key: [statistics.median(column) for column in zip(*runs, strict=True)] for key, runs in found.items()}
    for (name, clients), (rate, p50, p99, cpu, errors) in sorted(table.items(), key=lambda item: item[0][1]):
        print(f"{clients:>7} {name:<14} {rate:>10.1f} {p50:>8.1f} {p99:>8.1f} {cpu:>7.1f} {errors:>6.0f}")
    for clients in CLIENTS:
        ours, plain = table["dogbreed", clients], table["plain FastAPI", clients]
        print(
            f"{clients} clients: {ours[0] / plain[0]:.2f} times the requests, {ours[1] / plain[1]:.2f} times the p50, "
            f"{ours[3] / plain[3]:.2f} times the CPU"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_server(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
