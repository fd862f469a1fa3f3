"""A user copies what a document shows, so all Python in the documents runs, and so does the notebook."""

import ast
import asyncio
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pytest

from tests.conftest import UseEnvironment
from tests.house.sources import DOCUMENTS, ROOT, python_of
from tests.pictures import encoded, photo
from tests.waiting import limit
from tidemill import ask
from tidemill.producer.asking import assistants
from tidemill.simulator import Simulator

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


@pytest.fixture
def users_folder(
    tmp_path: Path, embedded_environment: Mapping[str, str], simulator: Simulator, use_environment: UseEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """Where a reader of the documents is: the files that they speak of, an assistant, and dialogues up to 17."""
    use_environment(embedded_environment)
    simulator.control(tuning_seconds=0)
    folder = tmp_path / "reader"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "cat.png").write_bytes(encoded(photo(40, 30), "PNG"))
    texts = ["It works.", "It broke.", "Where is it?"]
    pd.DataFrame({"prompt": texts, "text": texts}).to_csv(folder / "prompts.csv", index=False)
    pd.DataFrame({"text": texts}).to_csv(folder / "reviews.csv", index=False)
    pairs = [{"question": f"What is {number} and 1?", "answer": f"It is {number + 1}."} for number in range(20)]
    pd.DataFrame(pairs).to_csv(folder / "qa.csv", index=False)
    monkeypatch.chdir(folder)
    assistants.add("support", "Be kind and brief.", None, {})
    ask([f"Question {number}" for number in range(17)], transport="http").wait()
    return folder


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if python_of(name)])
def test_python_in_a_document_runs(name: str, users_folder: Path) -> None:
    names = {"frame": pd.read_csv("prompts.csv")}
    for number, program in enumerate(python_of(name), 1):
        code = compile(program, f"{name}, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        ran = eval(code, names)
        if inspect.iscoroutine(ran):
            asyncio.run(ran)


def test_the_notebook_runs_in_a_kernel(users_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    client = nbclient.NotebookClient(
        notebook, timeout=int(limit()), kernel_name="python3", resources={"metadata": {"path": str(users_folder)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(json.dumps(output) for output in outputs)
    assert "3/3 done" in shown, "the bar"
    assert "<th>succeeded</th>" in shown, "the batch"
    assert "Review(stars=" in shown
    assert "And in one word?" in shown
    assert [output for output in outputs if output.get("name") == "stderr" or output.output_type == "error"] == []


def test_the_notebook_is_kept_without_what_it_printed() -> None:
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)
