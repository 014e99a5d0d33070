"""Nothing in the package can run code from a data file: checked on the syntax tree.

Every published RIS repository unpickles its annotations and checkpoints; here a pickle is read in
one place that allows no globals, and a checkpoint in one place with weights_only=True.
"""

import ast
from pathlib import Path

import pytest

import svp

ROOT = Path(svp.__file__).parent
PACKAGES = ("pipeline", "model", "train", "integrations")
FILES = [
    ROOT / "cli.py",
    *(p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))),
]
TRAINING = sorted((ROOT / "workflows").rglob("*.py"))  # recipes that make the shipped weights
BANNED = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "cPickle.load",
    "dill.load",
    "dill.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Calls by full name, import aliases resolved."""
    alias: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            alias |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            alias |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            head, _, rest = name.partition(".")
            found.append((".".join(filter(None, (alias.get(head, head), rest))), node))
    return found


def keyword(call: ast.Call, name: str) -> object:
    for item in call.keywords:
        if item.arg == name:
            return item.value.value if isinstance(item.value, ast.Constant) else "not a constant"
    return None


def offences(source: str, *, guarded: bool = False) -> list[str]:
    """What in a file could run code from data; `guarded`: torch.load(weights_only=True) may."""
    found = []
    for called, call in calls(ast.parse(source)):
        last = called.rpartition(".")[2]
        if called in BANNED:
            found.append(called)
        elif called in ("numpy.load", "np.load") and keyword(call, "allow_pickle") not in (
            None,
            False,
        ):
            found.append("numpy.load(allow_pickle)")
        elif called == "torch.load" and not (guarded and keyword(call, "weights_only") is True):
            found.append("torch.load")
        elif keyword(call, "shell") is True and last in ("run", "Popen", "call", "check_output"):
            found.append("shell=True")
        elif keyword(call, "trust_remote_code") not in (None, False):
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize("path", [*FILES, *TRAINING], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unsafe_loading(path: Path) -> None:
    guarded = path in TRAINING or path == ROOT / "pipeline" / "weights" / "load.py"
    assert offences(path.read_text(encoding="utf-8"), guarded=guarded) == []


def test_pickle_reads_in_one_place() -> None:
    """Elsewhere it may write the REFER files of the generated scenes, or be caught as an error."""
    allowed = {"pickle.dump", "pickle.dumps", "pickle.UnpicklingError"}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used = {name for name in used if name.startswith("pickle.")}
        assert used <= allowed or path == ROOT / "pipeline" / "datasets" / "refer_pickle.py", path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads\nloads(b)",
        "import pickle as p\np.Unpickler(f).load()",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=True)",
        "from torch import load\nload(f)",
        "import yaml\nyaml.load(f, yaml.SafeLoader)",
        "eval(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_check_sees_each_kind(source: str) -> None:
    assert len(offences(source)) == 1


def test_the_check_allows_the_guarded_forms() -> None:
    guarded = "import torch\ntorch.load(f, weights_only=True)"
    assert offences(guarded, guarded=True) == []
    assert offences("import torch\ntorch.load(f, weights_only=False)", guarded=True) != []
    assert offences("import numpy as np\nnp.load(f)\nimport re\nre.compile(x)\nm.eval()") == []
