"""Models ready to run: a space (tokenizer, encoder, decoder) and a model in it that writes.

space = load_space("mini-sonar", runtime)
writer = load_writer("mini", runtime)      # with its space

Legend: W words that may be written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..nets.kinds import WRITERS, Kind, kind_of
from ..nets.layers import onednn_serves
from ..nets.packed import pack_
from ..nets.shortlist import Shortlist
from ..nets.sonar import Sonar
from ..nets.sonar_llm import ENDING
from ..runtime import Runtime, choose
from ..tokens import EOS, Tokenizer
from . import model_dir, registry, tensors

DEFAULT = "mini"  # the embedded concept model; its space is embedded too


@dataclass(frozen=True)
class Space:
    """A SONAR space: what turns sentences into embeddings and back. `fingerprint` is its name. With a `shortlist` no
    other words are written."""

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    net: Sonar
    runtime: Runtime
    shortlist: Shortlist | None = None

    @property
    def dim(self) -> int:
        return self.net.config.embedding


@dataclass(frozen=True)
class Writer:
    """A model that writes texts, of any of these kinds, and its space. `marker` is the sentence that stands between a
    text and its summary, `lang` the language it was trained to write."""

    name: str
    net: Any  # of its kind; of a concept model, with the methods of `SonarLLM`
    space: Space
    marker: str
    ending: str
    begin: str  # a sentence put before every text, or ""
    lang: str
    familiar: float  # bits a byte up to which its space reconstructs text of its field; 0 where nobody measured
    kind: str

    @property
    def row(self) -> Kind:
        """What its kind is."""
        return kind_of(self.kind)


def pack(net: nn.Module, runtime: Runtime) -> None:
    """The linear layers of a loaded network in the layout that is fastest to run, where there is one."""
    if onednn_serves(runtime.device, runtime.dtype):
        pack_(net, int8=runtime.int8)
    elif runtime.int8:
        raise UserError("int8 needs PyTorch with oneDNN", "use --dtype float32 or bfloat16")


def packed_encoder(space: Space) -> Space:
    """A space that was loaded to train, with its encoder packed: to embed with. What its network holds beside it is
    shared, and stays as it is."""
    own = space.net
    net = copy.deepcopy(own, {id(part): part for part in (own.decoder, *own.parameters(), *own.buffers())})
    pack(net.encoder, space.runtime)
    return replace(space, net=net)


def shortlisted(space: Space, texts: list[str]) -> Space:
    """A space that writes only the pieces these texts are made of. UserError for texts without a word."""
    words = {i for ids in space.tokenizer.content(texts) for i in ids}
    if not words:
        raise UserError("the shortlist's text holds no word", "give some thousand lines of the language to write")
    return shortlisted_ids(space, words)


def shortlisted_ids(space: Space, ids: Iterable[int]) -> Space:
    """A space that writes only these ids, the special ones and its languages'."""
    tokenizer, runtime = space.tokenizer, space.runtime
    languages = (tokenizer.lang_id(lang) for lang in tokenizer.langs)
    id_W = torch.tensor(sorted({*range(EOS + 1), *languages, *ids}), device=runtime.device)
    int8 = runtime.int8 and onednn_serves(runtime.device, runtime.dtype)
    return replace(space, shortlist=Shortlist.of(space.net.decoder.embed.words(id_W), id_W, int8=int8))


def load_space(name: str = DEFAULT, runtime: Runtime | None = None, *, trainable: bool = False) -> Space:
    """A space by the name or folder of a SONAR model, or of a concept model that lives in one. On a CPU it is packed
    for inference, unless gradients are to go through it (`trainable`)."""
    runtime = runtime or choose()
    folder, config = registry.find_space(name)
    net = tensors.load_net(folder, config, runtime.device, runtime.dtype)
    if not trainable:
        pack(net, runtime)
    tokenizer = model_dir.load_tokenizer(folder, config)
    if tokenizer.vocab_size > net.config.vocab_size:
        raise UserError(
            f"{folder}'s tokenizer has {tokenizer.vocab_size} ids, the model {net.config.vocab_size}", model_dir.AGAIN
        )
    return Space(folder.name, config.get("fingerprint", ""), tokenizer, net, runtime)


def load_writer(
    name: str = DEFAULT, runtime: Runtime | None = None, space: str = "", *, trainable: bool = False
) -> Writer:
    """A model that writes, with its space. UserError if the space found is not the one it was trained in."""
    runtime = runtime or choose()
    folder = registry.find(name)
    config = model_dir.read_config(folder)
    if not kind_of(config["kind"]).writer:
        cure = f"name a model of another kind ({', '.join(WRITERS)}): sonarllm models list"
        raise UserError(f"{name} is a {config['kind']} model: it can't write texts", cure)
    home = load_space(space or model_dir.home_of(folder, config), runtime, trainable=trainable)
    want = config.get("sonar", {}).get("fingerprint", "")
    if want != home.fingerprint:
        raise UserError(
            f"{folder.name} was trained in the space {config.get('sonar', {}).get('name')} ({want}), not {home.name} "
            f"({home.fingerprint})",
            "use the space it names, or train a concept model in this one",
        )
    net = tensors.load_net(folder, config, runtime.device, runtime.dtype)
    if not trainable:
        pack(net, runtime)
    return Writer(
        folder.name,
        net,
        home,
        marker=config.get("marker", ""),
        ending=config.get("ending", ENDING),
        begin=config.get("begin", ""),
        lang=config.get("lang", "eng_Latn"),
        familiar=float(config.get("familiar_bpb", 0.0)),
        kind=config["kind"],
    )
