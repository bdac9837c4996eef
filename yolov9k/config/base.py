"""What every class of options can do: check its values, be written to args.yaml and be read back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from yolov9k.common.errors import UserError, shown
from yolov9k.common.files import user_path
from yolov9k.common.text import read_yaml
from yolov9k.config.option import option_fields

Own = TypeVar("Own", bound="Options")


@dataclass
class Options:
    """The base of the commands' options: dataclasses whose fields are annotated with an Option each."""

    given = frozenset[str]()  # not a field: names of the fields that the command line named

    def __post_init__(self) -> None:
        """Write home folders out in paths. Raises UserError where one is not known."""
        for field in option_fields(type(self)):
            value = getattr(self, field.name)
            if field.option.path and isinstance(value, str) and value.startswith("~"):
                setattr(self, field.name, str(user_path(value)))

    def check(self) -> None:
        """Raises UserError, naming the flag, for values that cannot be."""
        for field in option_fields(type(self)):
            field.check(getattr(self, field.name))

    def by_flag(self) -> dict[str, Any]:
        """Every option by its flag's name, as args.yaml holds it."""
        return {field.key: field.show(getattr(self, field.name)) for field in option_fields(type(self))}

    @classmethod
    def from_flags(cls: type[Own], values: Mapping[Any, Any], where: str) -> Own:
        """The options of a mapping by flag, or by field. Raises UserError, which begins with `where`."""
        known = {field.name: field for field in option_fields(cls)}
        taken: dict[str, Any] = {}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name[:100], known, 1)
                hint = f"did you mean '{known[near[0]].key}'?" if near else f"known: {', '.join(f.key for f in known.values())}"
                raise UserError(f"{where}: unknown option {shown(str(key))}; {hint}")
            taken[name] = known[name].read(value, where)
        if lacking := [field.key for name, field in known.items() if field.default is MISSING and name not in taken]:
            raise UserError(f"{where}: lacks {', '.join(lacking)}")
        return cls(**taken)

    @classmethod
    def from_fields(cls: type[Own], values: Mapping[str, Any]) -> Own:
        """The options of values by field. Raises UserError where one that must be given is missing."""
        lacking = [field.key for field in option_fields(cls) if field.default is MISSING and field.name not in values]
        if lacking:
            raise UserError(f"{', '.join(lacking)}: must be given")
        return cls(**values)

    @classmethod
    def from_yaml(cls: type[Own], path: str | Path) -> Own:
        """The options of an args.yaml; what it leaves out keeps its default. Raises UserError naming file and option."""
        return cls.from_flags(read_mapping(Path(path)), str(path))


def read_mapping(path: Path) -> dict[Any, Any]:
    """The keys and values of a YAML file. Raises UserError for anything else."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return values
