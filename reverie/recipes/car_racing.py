"""World Models (2018) in CarRacing-v3: learn to drive in a dream."""

from __future__ import annotations

import torch
from gymnasium.vector import VectorEnv

from reverie import envs
from reverie.agent import BrownianAgent, RandomAgent
from reverie.behaviors.evolution import Controller, EvolutionConfig
from reverie.core.types import Box, Optim
from reverie.models.world_models_2018 import PIXELS, WorldModels2018, WorldModels2018Config
from reverie.recipes.world_models_2018 import Effort, Game, Setup, run_of
from reverie.run import Run, usable


def car_racing(*, seed: int = 0, episodes: int = 200, device: str = "cpu") -> Run:
    """Drive in CarRacing-v3 after learning to drive in a dream.

    The game renders about 90 steps a second on a core, so 200 episodes of 1,000 steps cost about
    40 core-minutes; two processes collect. The paper evolves C in the real game, which at this
    speed would take weeks; here M also predicts the reward and C is evolved in M's dream.

    It was never trained to the end: no number stands behind it yet.

    Args:
        seed: of everything.
        episodes: collected for V and M.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    actions = Box((3,))  # steer, gas, brake
    config = WorldModels2018Config(predicts=("reward",))

    def world(num_envs: int, seed: int) -> VectorEnv:
        return envs.make("CarRacing-v3", num_envs, seed=seed, rows=(0, 84), workers=2)

    game = Game(
        environment="CarRacing-v3",
        unit="return",
        make=world,
        explorer=BrownianAgent(actions, start=(0.0, 0.0, -1.0)),
        baselines={"random": RandomAgent(actions)},
        decisions=1000,
        num_envs=2,
    )
    torch.manual_seed(seed)
    model = WorldModels2018(config, PIXELS, actions).to(usable(device))
    controller = Controller(config.latent + config.hidden, actions).to(model.device)
    effort = Effort(
        episodes=episodes,
        vision=Optim("vision", lr=1e-4),
        vision_updates=20_000,
        vision_batch=100,
        memory=Optim("memory", lr=1e-3, lr_min=1e-5, clip_value=1.0),
        memory_updates=4000,
        memory_batch=32,
        memory_length=128,
        generations=100,
        evolution=EvolutionConfig(64, 16, horizon=200, discount=0.99, seed=seed, precision="bf16"),
        components=64,
    )
    setup = Setup("world_models_2018.car_racing", model, controller, game, effort, seed, arguments)
    return run_of(setup)
