"""The kinds of model, a row each: what a kind reads and writes, and the classes that are it, by name.

    row = kind_of(config["kind"])
    if row.reads == SOUND: ...
    net = row.net(shape)

Nothing else asks which kind a model is: it asks for a fact of the row, or calls a method of the network. Classes are
named, not imported, so that a list of models needs no torch and `nets` no room above it. To add a kind: its network and
config in a file here, its training task in learn/tasks/ if it has one, and a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

TEXT, SOUND, VECTORS, TOKENS, NUMBER = "text", "sound", "vectors", "tokens", "a number"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row. Classes and functions are named with their file: file.Class."""

    name: str
    network: str = ""  # its network and
    shape: str = ""  # that one's config, in nets/
    reads: str = ""  # TEXT, SOUND, VECTORS of sentences or TOKENS
    writes: str = ""  # TEXT, VECTORS, TOKENS or NUMBER
    task: str = ""  # what trains it, in learn/tasks/; "": nothing here does
    encoder: str = ""  # what embeds by it, in flow/; "": nothing does
    pull: str = ""  # the function that fetches one of the catalogue, in weights/; "": none is there
    names_space: bool = False  # it makes a space, whose name is the model's fingerprint
    given: str = ""  # the field of its config that its space decides, called alike in the space's
    noise: bool = False  # what it writes begins as noise
    normaliser: bool = False  # it has one, whose numbers are fitted and not trained
    shards: bool = False  # its training can cut it in parts, one a process

    @property
    def net(self) -> Any:
        """The network's class."""
        return named(__package__, self.network)

    @property
    def config(self) -> Any:
        """The class of its config."""
        return named(__package__, self.shape)

    @property
    def space(self) -> bool:
        """Whether it is a space: what turns texts into vectors and back."""
        return self.names_space and self.writes == TEXT

    @property
    def writer(self) -> bool:
        """Whether it goes on with a text, in a space of its own choice."""
        return (self.reads, self.writes) in ((VECTORS, VECTORS), (TOKENS, TOKENS))


def named(package: str | None, name: str) -> Any:
    """What is named with its file in a package of ours: named("sonarllm_cli.nets", "speech.SpeechEncoder")."""
    file, _, own = name.partition(".")
    return getattr(import_module(f"{package}.{file}"), own)


_CONCEPT: dict[str, Any] = {
    "reads": VECTORS,
    "writes": VECTORS,
    "encoder": "embed_text.SpaceEncoder",
    "given": "embedding",
    "shards": True,
}
_HEAD: dict[str, Any] = {"reads": VECTORS, "writes": NUMBER}
ROWS = (
    Kind(
        name="sonar",
        network="sonar.Sonar",
        shape="sonar.SonarConfig",
        reads=TEXT,
        writes=TEXT,
        task="sonar.SonarTask",
        encoder="embed_text.SpaceEncoder",
        pull="hub.pull_sonar",
        names_space=True,
    ),
    Kind(
        name="sonar-llm",
        network="sonar_llm.SonarLLM",
        shape="sonar_llm.SonarLLMConfig",
        task="sonar_llm.SonarLLMTask",
        pull="hub.pull_concept",
        **_CONCEPT,
    ),
    Kind(
        name="token-llm",
        network="token_lm.TokenLM",
        shape="token_lm.TokenLMConfig",
        reads=TOKENS,
        writes=TOKENS,
        task="token_llm.TokenLLMTask",
        encoder="embed_text.SpaceEncoder",
        given="vocab_size",
        shards=True,
    ),
    Kind(
        name="mse-lcm",
        network="mse_lcm.MseLCM",
        shape="mse_lcm.MseLCMConfig",
        task="lcm.LCMTask",
        normaliser=True,
        **_CONCEPT,
    ),
    Kind(
        name="diffusion-lcm",
        network="diffusion_lcm.DiffusionLCM",
        shape="diffusion_lcm.DiffusionLCMConfig",
        task="lcm.DiffusionTask",
        noise=True,
        normaliser=True,
        **_CONCEPT,
    ),
    Kind(
        name="sonar-speech",
        network="speech.SpeechEncoder",
        shape="speech.SpeechConfig",
        reads=SOUND,
        writes=VECTORS,
        task="speech.SpeechTask",
        encoder="embed_speech.SpeechModel",
        pull="hub.pull_speech",
        given="embedding",
    ),
    Kind(
        name="laser2",
        network="laser2.Laser2",
        shape="laser2.Laser2Config",
        reads=TEXT,
        writes=VECTORS,
        encoder="laser.LaserEncoder",
        pull="hub.pull_laser2",
        names_space=True,
    ),
    Kind(name="blaser", network="heads.Blaser", shape="heads.BlaserConfig", pull="hub.pull_blaser", **_HEAD),
    Kind(name="mutox", network="heads.Mutox", shape="heads.MutoxConfig", pull="hub.pull_mutox", **_HEAD),
)
KINDS = {row.name: row for row in ROWS}
WRITERS = tuple(row.name for row in ROWS if row.writer)
TRAINED = tuple(row.name for row in ROWS if row.task)


def kind_of(name: str) -> Kind:
    """The row of a kind; of one that is not known here, a row that can do nothing."""
    return KINDS.get(name) or Kind(name=name)
