"""A reply is judged sooner, because the table that names its language is unpacked once a user and not once a process.

py3langid ships it as LZMA; unpacking takes 0.6 s of CPU, more than all else that a first judgement takes. The copy is a
file of numbers in the user's cache folder (68 MB), read in a tenth of a second. It may be deleted at any time; where it
cannot be kept, the table is unpacked as before.
"""

import tempfile
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import platformdirs

_TYPE_CODES = {2: "H", 4: "I"}


def load_identifier() -> Any:
    """py3langid's `LanguageIdentifier` of all its languages, with probabilities."""
    import numpy as np
    from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier

    packed = (Path(MODEL_DIR) / MODEL_FILE).stat()
    origin = [packed.st_size, packed.st_mtime_ns]
    copy = Path(platformdirs.user_cache_dir("tidemill")) / "languages.npz"
    try:
        with copy.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if kept["origin"].tolist() == origin:
                automaton = _array(kept["nextmove"]), kept["output"].tolist()
                classes = kept["ptc"], kept["pc"], kept["classes"].tolist()
                return LanguageIdentifier(*classes, *automaton, norm_probs=True, tk_row=_array(kept["row"]))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        pass  # it is not there, or somebody else's or a broken one: it is made anew
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    with suppress(OSError):
        _keep(identifier, origin, copy)
    return identifier


def _array(numbers: Any) -> "array[int]":
    """Plain integers: the automaton walks byte by byte, for which NumPy's are slow."""
    plain = array(_TYPE_CODES[numbers.dtype.itemsize])
    plain.frombytes(memoryview(numbers).cast("B"))  # no copy between: it is most of the memory
    return plain


def _keep(identifier: Any, origin: list[int], copy: Path) -> None:
    """Write the copy beside its place and move it there, since other processes may be at the same."""
    import numpy as np

    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
        path = Path(folder) / copy.name
        np.savez(
            path,
            origin=np.array(origin),
            ptc=identifier.nb_ptc,
            pc=identifier.nb_pc,
            classes=np.array(identifier.nb_classes),
            nextmove=np.asarray(identifier.tk_nextmove),
            row=np.asarray(identifier.tk_row),
            output=np.asarray(identifier.tk_output, dtype=np.int32),
        )
        path.replace(copy)
