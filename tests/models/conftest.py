"""What tests of the models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.models.yaml_cases import BACKBONE, NECK, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model file: the small one above with a single branch, but for the keys given."""

    def written(**changes: Any) -> Path:
        table = {"nc": 3, "backbone": BACKBONE, "head": [*NECK, [[3, 9, 6], 1, "DDetect", ["nc"]]], **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in table.items() if value is not None}))
        return path

    return written
