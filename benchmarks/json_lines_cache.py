"""Results that take long to compute, in a file of JSON lines: a measurement can be resumed and extended."""

import json
from pathlib import Path
from typing import Any


class JsonLinesCache:
    """Results by key, one line each, appended as they come; a line left incomplete by a killed process is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    continue
                self._known[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, key: str, value: Any) -> None:
        self._known[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([key, value]))  # a new line first: the one before may be torn
