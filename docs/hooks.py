"""MkDocs hooks: pages that are generated from the code, and the notebooks.

The configuration page comes from the declarations of the keys, the rules page from the docstrings of the rules, and
the tutorial from `notebooks/`.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from dogbreed.cli.reference import configuration_page
from dogbreed.cli.schema import TRAINING
from dogbreed.debugger.rules.reference import rules_page
from launch.spec.settings import SCHEMAS

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

COMMANDS = {
    "dogbreed.train": ("train", TRAINING),
    "launch.tune": ("tune", SCHEMAS["tune"]),
    "launch.train": ("training", SCHEMAS["training"]),
    "launch.deploy": ("deploy", SCHEMAS["deploy"]),
    "launch.predict": ("predict", SCHEMAS["predict"]),
    "launch.publish": ("publish", SCHEMAS["publish"]),
}
"""Command to the file in `conf/` that it composes and the settings that it takes."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the notebooks."""
    pages = {"reference/configuration.md": configuration_page(COMMANDS), "reference/rules.md": rules_page()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        body, resources = MarkdownExporter().from_filename(str(notebook), {"output_files_dir": notebook.stem})
        files.append(File.generated(config, f"tutorial/{notebook.stem}.md", content=body))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"tutorial/{name}", content=content))
    return files
