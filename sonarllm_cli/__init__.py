"""sonarllm: concept-level language models. Importing this package costs nothing: each verb loads what it needs.

>>> from sonarllm_cli import segment
>>> [s.text for s in segment("One sentence. Another one.", lang="eng_Latn")]
['One sentence.', 'Another one.']
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "segment": "sonarllm_cli.flow.segment",
    "embed": "sonarllm_cli.flow.embed",
    "decode": "sonarllm_cli.flow.decode",
    "generate": "sonarllm_cli.flow.compose",
    "summarize": "sonarllm_cli.flow.summarize",
    "translate": "sonarllm_cli.use.translate",
    "SentenceEncoder": "sonarllm_cli.use.adapter",
}
__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        import importlib

        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'sonarllm_cli' has no attribute {name!r}")
