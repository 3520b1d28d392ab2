"""No pickle is ever loaded: not by our code, and not by a library that we let look for weights."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def faults(source: str) -> list[str]:
    """What of a module could load a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in PICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name.endswith(("torch.load", "read_pickle", "load_state_dict_from_url")):
                found.append(name)
            if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                found.append(f"{name} without allow_pickle=False")
            if "trust_remote_code" in given:
                found.append("trust_remote_code")
            models = name.endswith("from_pretrained") and "Tokenizer" not in name
            if models and given.get("use_safetensors") != "True" and None not in given:
                found.append(f"{name} without use_safetensors")
    return found


ALLOWED = {"sinkmodel/checkpoint.py": ["SinkForCausalLM.from_pretrained without use_safetensors"]}


def test_the_source_loads_none() -> None:
    files = [p for package in ("manifests", "sinkmodel", "govern")
             for p in (ROOT / package).rglob("*.py")]  # fmt: skip
    assert len(files) > 100
    found = {p.relative_to(ROOT).as_posix(): faults(p.read_text()) for p in files}
    # Our own class asks for safetensors itself, as the test below shows.
    assert {name: items for name, items in found.items() if items} == ALLOWED


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import load", "torch.load(x)", "np.load(x)", "pd.read_pickle(x)",
     "np.load(x, allow_pickle=True)", "LlamaForCausalLM.from_pretrained(x)",
     "AutoTokenizer.from_pretrained(x, trust_remote_code=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert faults(source)


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def test_pickled_weights_in_a_folder_are_left_alone(tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(ROOT / "tests" / "sinkmodel"))
    from tiny_models import mixed_map
    from transformers import LlamaConfig

    from sinkmodel.allocation import SINK_MAP_FILE
    from sinkmodel.modeling_sink import SinkForCausalLM

    mark, folder = tmp_path / "unpickled", tmp_path / "model"
    LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                vocab_size=16).save_pretrained(folder)  # fmt: skip
    mixed_map().save(folder / SINK_MAP_FILE)
    for name in ("pytorch_model.bin", "model.bin", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(OSError, match="safetensors"):
        SinkForCausalLM.from_llama(folder, mixed_map(), block_size=4, seed=0)
    with pytest.raises((OSError, ValueError)):
        SinkForCausalLM.from_pretrained(folder)
    assert not mark.exists()
    # The trap works: whoever did unpickle it would leave the mark.
    pickle.loads((folder / "model.bin").read_bytes()).close()
    assert mark.exists()
