"""Files that are no checkpoints, or hostile ones, each made from bytes; and what a message says of each."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.models.crafted import (
    NUMBERS,
    PROTO,
    archive,
    array,
    called,
    called_with,
    directory,
    dumped,
    flipped,
    module,
    module_ladder,
    module_ring,
    name,
    nested_tuples,
    numpy_file,
    overlapping,
    row,
    safetensors,
    sound,
    stored,
    table,
    tarred,
    tensor,
    with_tensor,
    zipped,
)  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """How the bytes are made, words of the message, and the file's name."""

    data: Callable[[], bytes]
    words: str
    file: str = "bad.pt"


def _hostile(words: str, instructions: bytes) -> Bad:
    return Bad(lambda: archive(PROTO + instructions + b"."), f"calls {words}, which no checkpoint needs; it was not run")


def _damaged(words: str, data: Callable[[], bytes], file: str = "bad.pt") -> Bad:
    return Bad(data, f"damaged or not a checkpoint ({words}", file)


def _damaged_pickle(words: str, instructions: bytes) -> Bad:
    return _damaged(words, lambda: archive(PROTO + instructions + b"."))


OTHER_KINDS = {
    "git lfs pointer": Bad(
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n", "is a Git LFS pointer"
    ),
    "pointer as safetensors": Bad(lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull", "bad.safetensors"),
    "web page": Bad(lambda: b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
    "gzip": Bad(lambda: gzip.compress(sound()), "is packed by gzip"),
    "tar of torch 0.1": Bad(tarred, "is a tar archive"),
    "empty": Bad(lambda: b"", "is empty"),
    "zeros": Bad(lambda: bytes(5000), "begins with zeros alone"),
    "yaml": Bad(lambda: b"nc: 80\nbackbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n", "is a text"),
    "image": Bad(lambda: b"\x89PNG\r\n\x1a\n" + bytes(20), "is an image"),
    "onnx": Bad(lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(200), "is an ONNX model"),
    "numpy array": Bad(numpy_file, "is a numpy array"),
    "npz": Bad(lambda: zipped(a_npy=numpy_file()), "is a zip archive of something else"),
    "zip of a checkpoint": Bad(lambda: zipped(best_pt=sound()), "is a zip archive of something else"),
    "torchscript": Bad(lambda: zipped(m__data_pkl=b"\x80\x02N.", m__constants_pkl=b"\x80\x02)."), "is a TorchScript program"),
    "plain pickle": Bad(lambda: pickle.dumps({"a": [1.0]}), "is a pickle, but not one that torch.save wrote"),
    "hostile plain pickle": Bad(lambda: PROTO + called("os.system", "true") + b".", "is a pickle, but not one"),
    "list": Bad(lambda: archive(PROTO + b"]."), "holds list, expected a checkpoint or a state dict"),
    "no table": Bad(lambda: archive(PROTO + tensor() + b".", n0=NUMBERS), "holds Tensor, expected a checkpoint"),
}

HOSTILE = {
    "os.system": _hostile("os.system", called("os.system", "touch ran")),
    "posix.system": _hostile("posix.system", called("posix.system", "touch ran")),
    "eval": _hostile("builtins.eval", called("builtins.eval", "open('ran', 'w')")),
    "exec of Python 2": _hostile("builtins.exec", called("__builtin__.exec", "open('ran', 'w')")),
    "getattr of a module": _hostile("builtins.getattr", called_with("builtins.getattr", name("os.environ"), dumped("x"))),
    "import": _hostile("importlib.import_module", called("importlib.import_module", "antigravity")),
    "__import__": _hostile("builtins.__import__", called("builtins.__import__", "antigravity")),
    "popen": _hostile("subprocess.Popen", called("subprocess.Popen", ["touch", "ran"])),
    "class of a hostile module": _hostile("socket.SocketType", called("socket.SocketType", 2, 1)),
    "chain of reduce": _hostile(
        "functools.reduce",
        called_with("functools.reduce", name("operator.add"), b"]" + called("collections.deque", [1]) + b"a"),
    ),
    "call of a result": _hostile("x.Y", called_with("x.Y") + b")R"),
    "call of what getattr gave": _hostile(
        "x.Y.__init__", called_with("builtins.getattr", called_with("x.Y"), dumped("__init__")) + b")R"
    ),
    "method of a class": _hostile(
        "pathlib.Path.touch", called_with("builtins.getattr", name("pathlib.Path"), dumped("touch")) + dumped(("ran",)) + b"R"
    ),
    "subclasses of object": _hostile(
        "builtins.getattr", called_with("builtins.getattr", name("builtins.object"), dumped("__subclasses__")) + b")R"
    ),
    "operator.methodcaller": _hostile("operator.methodcaller", called("operator.methodcaller", "system", "true")),
    "torch.load in it": _hostile("torch.storage._load_from_bytes", called("torch.storage._load_from_bytes", "x")),
    "torch.hub": _hostile("torch.hub.load", called("torch.hub.load", "a/b", "c")),
    "numpy runstring": _hostile("numpy.testing.utils.runstring", called("numpy.testing.utils.runstring", "1", {})),
    "punycode": _hostile("_codecs.encode", called("_codecs.encode", "é" * 10, "punycode")),
    "instance of protocol 0": _hostile("os.system", b"(S'touch ran'\nios\nsystem\n"),
    "object of protocol 1": _hostile("os.system", b"(" + name("os.system") + b"S'touch ran'\no"),
    "new object": _hostile("builtins.eval", name("builtins.eval") + dumped(("1",)) + b"\x81"),
    "new object with names": _hostile("subprocess.Popen", name("subprocess.Popen") + b")}\x92"),
    "name on the stack": _hostile("os.system", dumped("os") + dumped("system") + b"\x93" + dumped(("true",)) + b"R"),
    "reconstructor": _hostile(
        "builtins.eval", called_with("copyreg._reconstructor", name("builtins.eval"), name("builtins.object"), b"N")
    ),
    "rebuild of a function": _damaged_pickle(
        "a tensor in it is made of no stored numbers",
        called_with("torch._tensor._rebuild_from_type_v2", name("os.system"), name("torch.Tensor"), dumped(("true",)), b"}"),
    ),
    "state of a list": _damaged_pickle("its pickle gives a list a state", b"]}b"),
    "appends to a dict": _damaged_pickle("its pickle appends to what is no list", b"}Na"),
    "items of a text": _damaged_pickle("its pickle sets items of what is no table", dumped("a") + b"NNs"),
    "extension": _damaged_pickle("its pickle has the instruction EXT1", b"\x82\x01"),
    "identity in text": _damaged_pickle("its pickle has the instruction PERSID", b"Pos\n"),
    "old form": Bad(lambda: row(PROTO + called("os.system", "touch ran") + b"."), "calls os.system"),
    "old form's list": Bad(lambda: row(PROTO + b"}.", PROTO + called("os.system", "touch ran") + b"."), "calls os.system"),
    "within a module": _hostile("os.system", module("x.Y", a=called("os.system", "touch ran"))),
}

BOMBS = {
    "packed records": Bad(
        lambda: zipped(zipfile.ZIP_DEFLATED, m__data_pkl=PROTO + b"}.", m__data__0=bytes(30_000_000)),
        "its records are compressed",
    ),
    "overlapping records": _damaged("its records are more than the file holds", overlapping),
    "table of records alone": _damaged("its table of records is larger than any", lambda: directory(200_000)),
    "marks": _damaged("its plain values take more memory than twice the file", lambda: archive(PROTO + b"(" * 800_000)),
    "lists": _damaged("its plain values take more memory", lambda: archive(PROTO + b"]" * 200_000 + b".")),
    "tables": _damaged("its plain values take more memory", lambda: archive(PROTO + b"}" * 200_000 + b".")),
    "sets": _damaged("its plain values take more memory", lambda: archive(PROTO[:1] + b"\x04" + b"\x8f" * 60_000 + b".")),
    "copies": _damaged(
        "its plain values take more memory",
        lambda: archive(
            PROTO + dumped("x" * 1_000_000) + b"q\x63" + called_with("_codecs.encode", b"h\x63", dumped("latin1")) * 20 + b"."
        ),
    ),
    "tuple of tuples as a key": _damaged_pickle("a key of its tables holds too many values", b"}" + nested_tuples(60) + b"Ns"),
    "set of tuples": _damaged_pickle(
        "a key of its tables holds too many values", called_with("builtins.set", b"]" + nested_tuples(60) + b"a")
    ),
    "keys of one hash": _damaged(
        "more than 1,000 keys", lambda: archive(PROTO + dumped({key * (2**61 - 1): None for key in range(1, 2_000)}) + b".")
    ),
    "long text": _damaged_pickle("one of its values is 4,294,967,295 bytes long", b"X\xff\xff\xff\xff"),
    "long bytes": _damaged_pickle("one of its values is", b"\x8e" + struct.pack("<Q", 2**60)),
    "byte array": _damaged_pickle("one of its values is", b"\x96" + struct.pack("<Q", 2**36)),
    "long number": _damaged_pickle("one of its values is", b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "digits": _damaged_pickle("no pickle of tensors", b"I" + b"9" * 5000 + b"\n"),
    "bytearray of a size": _hostile("_codecs.encode", called("builtins.bytearray", 2**34)),
    "modules without end": Bad(lambda: archive(module_ring()), "its modules hold each other without end"),
    "ladder of modules": Bad(lambda: archive(module_ladder(40), n0=NUMBERS), "its modules hold each other without end"),
    "array": _damaged_pickle("an array in it is larger than what is stored", array((2**40,), "f8", b"x" * 8)),
    "objects in an array": _damaged_pickle("an array in it is of no plain numbers", array((1,), "O8", b"x" * 8)),
}

LIES = {
    "size": _damaged("a tensor of 7 is larger than the 6 values", lambda: with_tensor(tensor((7,)))),
    "huge size": _damaged("a tensor of 1048576 x 1048576", lambda: with_tensor(tensor((2**20, 2**20), (0, 0)))),
    "offset": _damaged("a tensor of 6 is larger", lambda: with_tensor(tensor(offset=1))),
    "stride": _damaged("a tensor of 2 x 3 is larger", lambda: with_tensor(tensor((2, 3), (2**40, 1)))),
    "negative size": _damaged("a tensor's size, stride or offset is no number", lambda: with_tensor(tensor((-6,)))),
    "size of texts": _damaged("a tensor's size, stride or offset is no number", lambda: with_tensor(tensor(("6",)))),
    "dimensions": _damaged("a tensor's size and stride do not go together", lambda: with_tensor(tensor((6, 1)))),
    "count": _damaged("record data/0 has 24 bytes for 1,099,511,627,776", lambda: with_tensor(tensor(storage=stored(2**40)))),
    "kind of numbers": _damaged(
        "record data/0 has 24 bytes for 6", lambda: with_tensor(tensor(storage=stored(6, "0", "torch.LongStorage")))
    ),
    "unknown numbers": _damaged(
        "a tensor in it is of no kind", lambda: with_tensor(tensor(storage=stored(6, "0", "torch.SomeStorage")))
    ),
    "missing record": _damaged("it has no record data/1", lambda: with_tensor(tensor(storage=stored(6, "1")))),
    "path as a key": _damaged("it has no record data/../", lambda: with_tensor(tensor(storage=stored(6, "../../etc/passwd")))),
    "no storage": _damaged("a tensor in it is made of no stored numbers", lambda: with_tensor(tensor(storage=dumped([1, 2])))),
    "identity": _damaged(
        "a tensor in it is made of no stored numbers", lambda: with_tensor(dumped(("file", "/etc/passwd")) + b"Q")
    ),
    "checksum": _damaged(
        "record archive/data/0 is not what its checksum says", lambda: flipped(with_tensor(tensor()), NUMBERS)
    ),
    "cut in half": _damaged("its end is missing: it was cut short", lambda: sound()[: len(sound()) // 2]),
    "cut by a little": _damaged("its end is missing: it was cut short", lambda: sound()[:-10]),
    "old form cut": _damaged("its tensors are cut short", lambda: sound(new=False)[:-5]),
    "old form longer": _damaged("more follows where it should end", lambda: sound(new=False) + b"x"),
    "old form's count": _damaged(
        "its tensors are larger than the file", lambda: row(table(model=tensor(storage=b"(" + stored(2**40)[1:-2] + b"NtQ")))
    ),
    "old form's keys": _damaged(
        "its tensors and its list of them differ", lambda: row(PROTO + b"}.", PROTO + dumped(["0"]) + b".")
    ),
    "memo": _damaged_pickle("no pickle of tensors", b"h\x05"),
    "underflow": _damaged_pickle("no pickle of tensors", b"R"),
    "no end": _damaged("no pickle of tensors", lambda: archive(PROTO + b"}")),
    "table too long": _damaged("", lambda: safetensors(b'{"a":1}', length=2**38), "bad.safetensors"),
    "long table": _damaged(
        "its table of tensors is larger than any", lambda: safetensors(b"{" + b" " * 2**23), "bad.safetensors"
    ),
    "table beyond the file": _damaged("", lambda: safetensors(b'{"a":1}', length=2**20), "bad.safetensors"),
    "table of nonsense": _damaged("", lambda: safetensors(b'{"a": [1, 2'), "bad.safetensors"),
    "offsets": _damaged(
        "", lambda: safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,999999]}}', bytes(8)), "bad.safetensors"
    ),
    "shape": _damaged(
        "", lambda: safetensors(b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,8]}}', bytes(8)), "bad.safetensors"
    ),
    "dtype": _damaged(
        "", lambda: safetensors(b'{"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}', bytes(8)), "bad.safetensors"
    ),
    "data cut": _damaged(
        "", lambda: safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(7)), "bad.safetensors"
    ),
}

BAD: Mapping[str, Bad] = {**OTHER_KINDS, **HOSTILE, **BOMBS, **LIES}
