"""A peer is measured with its own dependencies, not with ours: each has an environment outside this repository."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import platformdirs

from tests.benchmarks.scenarios import ASYNC_BATCH_LLM, FLEXLLM, IN_FLIGHT, Peer
from tests.benchmarks.trees import RunError

FOLDER = "BENCH_PEERS"
"""The variable that names the folder of the environments; without it they are in the user's cache folder."""

_MODEL = "gpt-6-luna"


def batch_command(peer: Peer, base_url: str, prompts: Path, answers: str) -> list[str]:
    """What asks a file of prompts and writes the answers to another, with so many calls in flight as everybody.

    Raises:
        RunError: the peer cannot be installed.
    """
    script = str(Path(__file__).with_name("asking_async_batch_llm.py"))
    here = environment(peer) / "bin"
    return {
        FLEXLLM: [
            *(f"{here}/flexllm", "batch", str(prompts), "-o", answers, "-m", _MODEL),
            *("--base-url", base_url, "--api-key", "none", "-c", str(IN_FLIGHT)),
        ],
        ASYNC_BATCH_LLM: [f"{here}/python", script, base_url, str(prompts), answers, str(IN_FLIGHT)],
    }[peer]


def prompt_command(peer: Peer, base_url: str, prompt: str) -> list[str]:
    """What asks one question at the shell; a library has nothing for it."""
    assert peer == FLEXLLM
    return [
        *(str(environment(peer) / "bin" / "flexllm"), "ask", prompt, "-m", _MODEL),
        *("--base-url", base_url, "--api-key", "none"),
    ]


@cache
def environment(peer: Peer) -> Path:
    """The peer's environment, made at the first call of a run, its newest version where none is pinned.

    Raises:
        RunError: the peer cannot be installed.
    """
    cache_folder = os.environ.get(FOLDER) or platformdirs.user_cache_path("tidemill-bench")
    folder = Path(cache_folder).expanduser().resolve() / f"{peer.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        _run(*((uv, "venv", "--quiet", "--python", sys.executable) if uv else (sys.executable, "-m", "venv")), folder)
    # Compiled, or the first round would pay for that.
    install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python) if uv else ()
    _run(*(install or (python, "-m", "pip", "install", "--quiet")), "--upgrade", peer.requirement)
    return folder


def version(peer: Peer) -> str:
    """Which version is measured."""
    ask = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    return _run(environment(peer) / "bin" / "python", "-c", ask, peer.name).strip()


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-1000:]}")
    return done.stdout
