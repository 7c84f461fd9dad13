"""SeqTrack follows a box: the square around the last box is searched, greedily word by word."""

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.crop import cut, from_crop, inside, window
from eval.trackers.seqtrack.model import SeqTrack, normalised
from eval.trackers.seqtrack.settings import Settings


class SeqTracker:
    """A Tracker (eval/trackers/tracker.py) of a trained model, which it sets to evaluation mode.

    microsoft/VideoX SeqTrack, lib/test/tracker/seqtrack.py: a Hanning window over the words of cx and cy, boxes cut to
    the image, and the last template replaced where the words were likely enough. Patches of templates are computed
    once; attention is joint, so nothing after them is the same for two frames.
    """

    def __init__(self, model: SeqTrack, settings: Settings) -> None:
        self._model, self._settings = model.eval(), settings
        self._device = next(model.parameters()).device
        self._hanning = hanning(settings.n_bins).to(self._device) if settings.window else None
        self._box = np.zeros(4)
        self._templates: list[Tensor] = []
        self._n_followed = 0

    @torch.inference_mode()
    def start(self, frame: UInt8[np.ndarray, "Y X 3"], box: Float64[np.ndarray, "4"]) -> None:
        """Take what is in the box for the thing to follow: it fills all templates.

        Raises:
            ValueError: for a box without area.
        """
        with self._precision():
            template = self._template(frame, box)
        self._box = np.asarray(box, np.float64).copy()
        self._templates = [template] * self._settings.n_templates
        self._n_followed = 0

    @torch.inference_mode()
    def follow(self, frame: UInt8[np.ndarray, "Y X 3"]) -> Float64[np.ndarray, "4"]:
        """Where the thing is in the next frame."""
        settings, model = self._settings, self._model
        around = window(self._box, area_factor=settings.area_factor)
        size = model.search_size
        with self._precision():
            search = model.search_patches(normalised(self._sent(cut(frame, around, size=size)))[None])
            seen = model.see(search, torch.cat(self._templates, dim=1))
            median = settings.chosen_word == "median"
            words, probabilities = model.say(seen, self._hanning, median=median)
            # One transfer for both; words are whole numbers below 2^24, which float32 holds exactly.
            said = torch.cat([words[0].float(), probabilities[0]]).cpu().numpy()
            shares = tokens.shares(said[:4].astype(np.int64), n_bins=settings.n_bins)
            box = from_crop(shares, around, size=size, counted=size - settings.read_as_learnt)
            self._box = inside(box, *frame.shape[:2], margin=settings.margin)
            self._n_followed += 1
            is_due = settings.update_every > 0 and self._n_followed % settings.update_every == 0
            if is_due and 10 * float(said[4:].sum()) > settings.update_above:
                self._templates[-1] = self._template(frame, self._box)
        return self._box.copy()

    def _template(self, frame: UInt8[np.ndarray, "Y X 3"], box: Float64[np.ndarray, "4"]) -> Tensor:
        crop = cut(frame, window(box, area_factor=self._settings.template_area_factor), size=self._model.template_size)
        return self._model.template_patches(normalised(self._sent(crop))[None, None])

    def _sent(self, crop: UInt8[np.ndarray, "Y X 3"]) -> Tensor:
        return torch.from_numpy(crop).to(self._device, non_blocking=True)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.track_precision == "bf16")


def hanning(n: int) -> Float[Tensor, "n"]:
    """0 at both ends, 1 in the middle: (1 - cos(2 pi i / (n - 1))) / 2, as np.hanning."""
    return torch.hann_window(n, periodic=False, dtype=torch.float64).float()
