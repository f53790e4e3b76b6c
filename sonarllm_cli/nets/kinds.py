"""The networks that write texts, by kind: a config and the class that eats it."""

from __future__ import annotations

from typing import Any

from .diffusion_lcm import DiffusionLCM, DiffusionLCMConfig
from .mse_lcm import MseLCM, MseLCMConfig
from .sonar_llm import SonarLLM, SonarLLMConfig
from .token_lm import TokenLM, TokenLMConfig

NETS: dict[str, tuple[type[Any], type[Any]]] = {
    "sonar-llm": (SonarLLMConfig, SonarLLM),
    "token-llm": (TokenLMConfig, TokenLM),
    "mse-lcm": (MseLCMConfig, MseLCM),
    "diffusion-lcm": (DiffusionLCMConfig, DiffusionLCM),
}
