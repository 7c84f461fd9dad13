"""How fast the miniature is rendered: numpy on one thread, so a frame must not wait for another core."""

import statistics
import time

from bench import ROUNDS, Measurement

from dora.data.miniature import World, render

FPS, N_FRAMES = 30, 150


def miniature_fps() -> Measurement:
    """Frames a second at 480x270; each round walks the next stretch of the street."""
    world = World(seed=0, width=480, height=270)
    render(world, 0)
    rounds = [_frames_a_second(world, N_FRAMES / FPS * index) for index in range(ROUNDS)]
    return Measurement(statistics.median(rounds), "fps", rounds)


def _frames_a_second(world: World, start_s: float) -> float:
    started = time.perf_counter()
    for index in range(N_FRAMES):
        render(world, start_s + index / FPS)
    return N_FRAMES / (time.perf_counter() - started)


BENCHES = {"miniature_fps": miniature_fps}
