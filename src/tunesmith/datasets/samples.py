"""The sample data that ships with the package, laid out under home."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tunesmith.datasets.example import Example
from tunesmith.datasets.reading import read_file
from tunesmith.kernel.files import written_whole
from tunesmith.kernel.home import Home

FOLDER = "data/samples"


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A sample file that ships with the package.

    Attributes:
        role: what it is for: see ``install_samples``.
        name: under home, once it is installed.
        path: where the package has it.
        installed: whether it lies under home.
    """

    role: str
    name: str
    path: Path
    installed: bool

    def examples(self) -> list[Example]:
        """What it holds."""
        return list(read_file(self.path))


def sample_files(home: Home) -> list[SampleFile]:
    """Every sample file, installed or not.

    Raises:
        Forbidden: ``data`` or ``data/samples`` under home is a symbolic link.
    """
    folder, found = home.path(FOLDER, "samples"), []
    for path in sorted(Path(str(files("tunesmith.datasets").joinpath("samples"))).glob("*.jsonl")):
        role = path.stem.rpartition(".")[2]
        found.append(SampleFile(role, f"{FOLDER}/{path.name}", path, (folder / path.name).is_file()))
    return found


def install_samples(home: Home) -> dict[str, str]:
    """Copy the sample files to ``data/samples/`` under home, where they are missing or differ.

    Returns:
        What each is for to its name under home: ``train``, ``validation``, ``test`` (facts the base model cannot know;
        the test asks them in phrasings not trained on), ``control`` (what it knew before, never trained on) and
        ``general`` (examples to mix in against forgetting).

    Raises:
        Forbidden: the folder is a symbolic link.
    """
    folder = home.path(FOLDER, "samples")
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {}
    for sample in sorted(files("tunesmith.datasets").joinpath("samples").iterdir(), key=lambda file: file.name):
        if not sample.name.endswith(".jsonl"):
            continue
        content = sample.read_bytes()
        target = folder / sample.name
        if target.is_symlink() or not target.is_file() or target.read_bytes() != content:
            with written_whole(target) as temporary:
                temporary.write_bytes(content)
        names[sample.name.removesuffix(".jsonl").rpartition(".")[2]] = f"{FOLDER}/{sample.name}"
    return names
