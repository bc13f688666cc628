"""What ranks were given to run: simulated ones append each prompt to their `prompts_file`, a line each."""

from collections import Counter
from pathlib import Path


class Record:
    """Such a file, which several gateways' ranks may write one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def news(self) -> Counter[str]:
        """Since this was last asked: texts as they are, requests and all others as JSON."""
        if not self.path.exists():
            return Counter()
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().decode().splitlines()
            self._read = file.tell()
        return Counter(line.strip('"') for line in lines)
