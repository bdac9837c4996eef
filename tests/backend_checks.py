"""What holds of every operator's backends: its test file derives a class from this one and says how it is called."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from yolov9k import native
from yolov9k.ops import available
from yolov9k.ops.backends import choose
from yolov9k.ops.registry import BACKENDS_OF

CPU = torch.device("cpu")


class BackendChecks:
    """operator: its name. call(backend) runs it on a trivial input on the CPU and returns a result of it."""

    operator: ClassVar[str]

    def call(self, backend: str) -> Tensor:
        raise NotImplementedError

    def test_an_unknown_backend_is_refused_with_the_names_there_are(self) -> None:
        wanted = f"{self.operator}: backend must be one of auto, reference, cpu, cuda, triton; got 'tpu'"
        with pytest.raises(ValueError, match=wanted):
            self.call("tpu")

    def test_a_backend_that_is_not_written_is_refused_with_what_is(self) -> None:
        for backend in {"cpu", "cuda", "triton"} - set(available(self.operator)):
            wanted = f"{self.operator}: backend '{backend}' is not (implemented; available: refer|here: )"
            with pytest.raises(RuntimeError, match=wanted):
                self.call(backend)

    def test_every_backend_of_this_machines_processor_runs_and_agrees_on_trivial_input(self) -> None:
        elsewhere = ("cuda", "triton") if torch.cuda.is_available() else ("cuda",)  # Triton is interpreted where no GPU is
        names = ("auto", *(name for name in available(self.operator) if name not in elsewhere))
        results = [self.call(backend) for backend in names]
        assert len(results) >= 2
        for result in results[1:]:
            torch.testing.assert_close(result, results[0])

    def test_without_the_compiled_module_the_reference_runs_and_the_others_say_why_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(native.module, "_load", lambda: (None, "yolov9k._native is not built"))  # a checkout, never built
        assert not set(available(self.operator)) & {"cpu", "cuda"}
        assert choose(self.operator, "auto", CPU) == "reference"
        for backend in {"cpu", "cuda"} & set(BACKENDS_OF[self.operator]):
            wanted = f"{self.operator}: backend '{backend}' is not here: yolov9k._native is not built"
            with pytest.raises(RuntimeError, match=wanted):
                self.call(backend)
