"""The light of the day, which drifts as it does on a long walk."""

import numpy as np

from dora.data.street.layout import Light, phases


def daylight(seed: int, time_s: float) -> Light:
    """Daylight that drifts over minutes between noon and evening, clear and overcast; exposure drifts faster."""
    phase = phases(seed, 8)
    evening = 0.5 + 0.5 * np.sin(time_s / 97 + phase[0])
    clouds = 0.5 + 0.5 * np.sin(time_s / 61 + phase[1])
    exposure = 1 + 0.12 * np.sin(time_s / 13 + phase[2])

    # Rows: sun, zenith, horizon.
    noon = np.array([(1.12, 1.1, 1.06), (0.3, 0.5, 0.85), (0.75, 0.84, 0.95)])
    dusk = np.array([(1.0, 0.8, 0.62), (0.32, 0.36, 0.6), (0.96, 0.75, 0.55)])
    grey = np.array([0.66, 0.68, 0.72])
    colour = noon + (dusk - noon) * evening
    colour += (grey - colour) * clouds * np.array([[0.25], [0.7], [0.5]])
    colour[0] *= exposure * (1 - 0.1 * clouds)
    sun, zenith, horizon = colour.astype(np.float32)
    return Light(
        sun=sun,
        zenith=zenith,
        horizon=horizon,
        clouds=float(clouds),
        bearing=float(phase[3] + time_s / 600),
    )
