"""Hostile files that grow towards code that no earlier one has reached: atheris, next to the changes at random.

python -m tests.faults.coverage_fuzz NIfTI 100000 FOLDER
"""

import sys
from pathlib import Path

import atheris

from tests.faults.fuzz import HARD_NUMBERS, HARD_TEXTS, MAX_EXTRA_BYTES, find_fault

atheris.enabled_hooks.add("str")
# What reads files is watched; the rest of the libraries is large and would only slow this.
with atheris.instrument_imports(include=["pipeline", "nibabel", "pydicom", "trimesh", "PIL"]):
    from tests.faults.readers import READERS

MAX_FILE_BYTES = 20_000


def cover(name: str, number: int, folder: Path) -> None:
    """Read so many files, each grown from those that reached new code, and end the process: with 0 if all was well.

    Args:
        name: The name of the reader.
        number: The number of files.
        folder: The folder of the files that reached new code, and of the one that the reader failed on.
    """
    reader = READERS[name]
    corpus, place = folder / "corpus", folder / "read"
    corpus.mkdir(parents=True, exist_ok=True)
    place.mkdir(exist_ok=True)
    for index, content in enumerate(reader.seeds(place)):
        (corpus / f"seed{index}").write_bytes(content)

    words = folder / "words"
    texts = ["".join(f"\\x{byte:02x}" for byte in word) for word in (*HARD_NUMBERS, *HARD_TEXTS, *reader.words)]
    words.write_text("".join(f'"{text}"\n' for text in texts))

    def read(content: bytes) -> None:
        fault = find_fault(reader, content, place)
        if fault:
            raise AssertionError(fault)

    memory = f"-rss_limit_mb={2 * MAX_EXTRA_BYTES >> 20}"
    length = (f"-max_len={MAX_FILE_BYTES}", "-len_control=0")
    options = [f"-atheris_runs={number}", "-seed=1", memory, *length, f"-dict={words}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    cover(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
