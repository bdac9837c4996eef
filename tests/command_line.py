"""Running the command line in this process."""

from __future__ import annotations

import pytest

from yolov9k.cli import main


def run(*arguments: object) -> int:
    """Exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)
