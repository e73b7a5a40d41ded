"""A model folder through `launch.deploy` and `launch.predict` to the real server."""

import csv
import json
import shutil
from pathlib import Path

from launch import deploy, predict, undeploy


def test_deployed_model_answers_like_lone_server(model_folder, endpoint, tmp_path, monkeypatch, write_images, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "outputs/tiny/model")
    write_images(tmp_path / "pets", {"069.French_bulldog": 12})
    Path("pets/069.French_bulldog/torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    assert deploy.main(["from_training=tiny", "top_k=2"]) == 0
    try:
        assert predict.main(["tiny", "pets"]) == 0
        capsys.readouterr()
        assert predict.main(["tiny", "pets/069.French_bulldog/000.jpg", "--json"]) == 0
        (first,) = json.loads(capsys.readouterr().out)
    finally:
        assert undeploy.main(["tiny"]) == 0
    assert len(first["top_k"]) == 2
    with Path("predictions.csv").open() as file:
        rows = {Path(row["key"]).name: row for row in csv.DictReader(file)}
    assert "not a readable image" in rows.pop("torn.jpg")["reason"] and len(rows) == 12
    for name, row in rows.items():
        alone = endpoint.invoke(Path("pets/069.French_bulldog", name).read_bytes()).json
        assert row["label"] == alone["predicted_label"]
        assert abs(float(row["confidence"]) - alone["confidence"]) < 1e-4
