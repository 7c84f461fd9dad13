"""SeqTrack's network: joint encoder of any patch and width, causal decoder, greedy words."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from tiny_eval import write_checkpoint
from torch import Tensor, nn

from dora.config import BackboneConfig
from dora.method.vit import build_vit
from eval.benchmark import Checkpoint
from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.decoder import Attention, Decoder, KeysValues, Layer, sinusoids
from eval.trackers.seqtrack.inference import SeqTracker, hanning
from eval.trackers.seqtrack.model import SeqTrack, fitting, normalised, positions, seqtrack
from eval.trackers.seqtrack.settings import Settings
from eval.trackers.seqtrack.training import cross_entropy, groups

torch.set_num_threads(1)
SETTINGS = Settings(
    search_size=32, template_size=16, n_bins=20, decoder_width=16, decoder_heads=2, decoder_hidden=24, iterations=1,
    margin=2,
)  # fmt: skip


def backbone(patch_size: int = 8, width: int = 24, image_size: int = 32):
    torch.manual_seed(0)
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=image_size, patch_size=patch_size, embed_dim=width, depth=2,
        num_heads=3,
    )  # fmt: skip
    return build_vit(config, drop_path=False)


def network(settings: Settings = SETTINGS, **values: int) -> SeqTrack:
    vit = backbone(**values)
    torch.manual_seed(1)
    return SeqTrack(vit, settings).eval()


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(n_words=22, n_seen=9, length=5, width=16, n_layers=2, n_heads=2, n_hidden=24, dropout=0.1)


def plainly(decoder: Decoder, words: Tensor, seen: Float[Tensor, "N D"]) -> Float[Tensor, "L V"]:
    """One sentence's logits, from the formula: place by place, head by head."""

    def attended(attention: Attention, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        d = len(query) // attention.n_heads
        q, k, v = attention.query(query), attention.key(keys), attention.value(values)
        heads: list[Tensor] = []
        for head in range(attention.n_heads):
            own = slice(head * d, (head + 1) * d)
            weight = torch.stack([q[own] @ one[own] / math.sqrt(d) for one in k]).softmax(0)
            heads.append(sum((w * one[own] for w, one in zip(weight, v, strict=True)), torch.zeros(d)))
        return attention.out(torch.cat(heads))

    rows = [decoder.embedding_norm(decoder.embedding.weight[word]) for word in words]
    for layer in decoder.layers:
        assert isinstance(layer, Layer)
        placed = torch.stack([row + decoder.positions[i] for i, row in enumerate(rows)])
        after: list[Tensor] = []
        for i, row in enumerate(rows):
            x = layer.norm_among(row + attended(layer.among, placed[i], placed[: i + 1], torch.stack(rows[: i + 1])))
            seen_places = seen + decoder.seen_positions
            x = layer.norm_across(x + attended(layer.across, x + decoder.positions[i], seen_places, seen))
            after.append(layer.norm(x + layer.narrow(F.relu(layer.widen(x)))))
        rows = after
    return torch.stack([decoder.head(decoder.norm(row)) for row in rows])


def test_the_decoder_equals_plain_loops():
    one = decoder().double().eval()
    seen, words = torch.randn(2, 9, 16, dtype=torch.float64), torch.tensor([[21, 3, 7, 0, 19], [21, 1, 1, 2, 3]])
    with torch.no_grad():
        logits = one.head(one(words, one.look(seen)))
        expected = torch.stack([plainly(one, *pair) for pair in zip(words, seen, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_a_later_word_changes_no_earlier_logit():
    one, seen = decoder().eval(), torch.randn(1, 9, 16)
    words = torch.tensor([[21, 3, 7, 0, 19]])
    before = one(words, one.look(seen))
    for place in range(1, 5):
        changed = words.clone()
        changed[0, place] = 11
        after = one(changed, one.look(seen))
        torch.testing.assert_close(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place:], before[:, place:])


def test_positions_of_what_is_seen_begin_as_sinusoids():
    table = sinusoids(7, 8)
    for place in range(7):
        for i in range(4):
            angle = place / 10_000 ** (2 * i / 8)
            assert table[place, 2 * i : 2 * i + 2].tolist() == pytest.approx(
                [math.sin(angle), math.cos(angle)], abs=1e-6
            )
    assert torch.equal(decoder().seen_positions, sinusoids(9, 16))


@pytest.mark.parametrize(
    ("patch_size", "width", "search", "template"), [(8, 24, 32, 16), (14, 48, 28, 14), (16, 24, 32, 16)]
)
def test_any_patch_size_and_width_is_an_encoder(patch_size: int, width: int, search: int, template: int):
    model = network(patch_size=patch_size, width=width, image_size=4 * patch_size)
    assert (model.search_size, model.template_size) == (search, template)
    found = model(torch.randn(2, 3, search, search), torch.randn(2, 2, 3, template, template), torch.zeros(2, 5).long())
    assert found.shape == (2, 5, 22)


def test_a_size_that_patches_do_not_divide_becomes_the_next_multiple():
    assert [fitting(256, patch) for patch in (8, 14, 16, 32)] == [256, 252, 256, 256]
    assert fitting(3, 16) == 16


def test_search_and_templates_see_each_other():
    model = network()
    search, templates = torch.randn(1, 3, 32, 32), torch.randn(1, 2, 3, 16, 16)
    words = torch.tensor([[21]])
    before = model(search, templates, words)
    for k in range(2):
        changed = templates.clone()
        changed[:, k] += 1
        assert not torch.allclose(model(search, changed, words), before)


def test_the_encoder_is_the_vits_blocks_without_cls():
    vit = backbone().eval()
    model = SeqTrack(vit, SETTINGS.model_copy(update={"decoder_width": 24, "decoder_heads": 2})).eval()
    model.bottleneck, model.decoder.look = nn.Identity(), lambda seen: [KeysValues(seen[:, None], seen[:, None])]
    search, templates = torch.randn(1, 3, 32, 32), torch.randn(1, 2, 3, 16, 16)
    assert vit.pos_embed is not None
    patches = vit.patch_embed.proj(search).flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]  # 4 x 4, as the ViT's own
    rows = [vit.patch_embed.proj(templates[:, k]).flatten(2).transpose(1, 2) for k in range(2)]
    x = torch.cat([patches, *(row + positions(vit.pos_embed, (4, 4), 2) for row in rows)], dim=1)
    expected = vit.norm(vit.blocks(x))[:, :16]
    ((found, _),) = model.see(model.search_patches(search), model.template_patches(templates))
    torch.testing.assert_close(found[:, 0], expected)


def test_positions_are_resized_with_their_corners_in_place():
    learnt = torch.randn(1, 17, 5)
    resized = positions(learnt, (4, 4), 7)
    assert resized.shape == (1, 49, 5)
    for before, after in ((0, 0), (3, 6), (12, 42), (15, 48)):
        torch.testing.assert_close(resized[0, after], learnt[0, 1 + before])
    assert torch.equal(positions(learnt, (4, 4), 4), learnt[:, 1:])


def test_words_are_said_greedily_without_end_and_start_and_windowed_in_cx_and_cy():
    model = network()
    seen = model.see(torch.randn(3, 16, 24), torch.randn(3, 8, 24))
    window = hanning(20)
    with torch.no_grad():
        words, found = model.say(seen, window)
        said = torch.full((3, 1), tokens.start(20))
        for place in range(4):
            share = model.decoder.head(model.decoder(said, seen))[:, place].softmax(1)[:, :20]
            share = share * window if place < 2 else share
            torch.testing.assert_close(found[:, place], share.amax(1))
            assert torch.equal(words[:, place], share.argmax(1))
            said = torch.cat([said, words[:, place, None]], dim=1)


def test_median_words_have_half_of_the_probability_below_or_at_them():
    model = network()
    seen = model.see(torch.randn(3, 16, 24), torch.randn(3, 8, 24))
    with torch.no_grad():
        words, found = model.say(seen, None, median=True)
        said = torch.cat([torch.full((3, 1), tokens.start(20)), words[:, :3]], dim=1)
        shares = model.decoder.head(model.decoder(said, seen)).softmax(2)[..., :20]
    torch.testing.assert_close(found, shares.amax(2))
    for share, word in zip(shares.flatten(0, 1).double(), words.flatten().tolist(), strict=True):
        half = share.sum() / 2
        assert share[:word].sum() < half <= share[: word + 1].sum()


def test_the_window_is_numpys_hanning():
    np.testing.assert_allclose(hanning(4000).numpy(), np.hanning(4000), atol=1e-7)


def test_the_loss_is_the_weighted_mean_of_plain_loops():
    logits, target = torch.randn(3, 5, 22, dtype=torch.float32), torch.randint(0, 20, (3, 5))
    target[:, 4] = tokens.end(20)
    total = weights = 0.0
    for row, words in zip(logits, target, strict=True):
        for logit, word in zip(row, words, strict=True):
            weight = 0.01 if word >= 20 else 1.0
            total += weight * float(-logit.log_softmax(0)[word])
            weights += weight
    assert float(cross_entropy(logits, target, special_weight=0.01)) == pytest.approx(total / weights, rel=1e-5)


def test_pixels_are_brightened_at_most_to_white_then_normalised():
    images = torch.tensor([0, 100, 255], dtype=torch.uint8).expand(2, 1, 1, 3).clone()
    found = normalised(images, torch.tensor([0.5, 2.0]))
    assert found.shape == (2, 3, 1, 1)
    expected = [(100 / 255 * 0.5 - 0.456) / 0.224, (200 / 255 - 0.456) / 0.224]
    assert found[:, 1, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert found[1, 2, 0, 0].item() == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)


def test_the_encoder_learns_slowly_and_everything_is_in_one_group():
    model = network()
    rest, encoder = groups(model, SETTINGS)
    assert (rest["lr"], encoder["lr"]) == (1e-4, pytest.approx(1e-5))
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    of_encoder = {named.pop(id(parameter)).split(".")[0] for parameter in encoder["params"]}
    assert of_encoder == {"search_positions", "template_positions", "projection", "blocks", "norm"}
    assert {named.pop(id(parameter)).split(".")[0] for parameter in rest["params"]} == {"bottleneck", "decoder"}
    assert not named


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="decoder_width is 20: expected a multiple of twice the 8 heads"):
        Settings(decoder_width=20, iterations=1)
    with pytest.raises(ValueError, match="a single template is never replaced"):
        Settings(n_templates=1, iterations=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def test_a_checkpoint_becomes_a_model_the_same_twice_and_a_frozen_encoder_stays(checkpoint: Checkpoint):
    one, other = (seqtrack(checkpoint, SETTINGS) for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    frozen = seqtrack(checkpoint, SETTINGS.model_copy(update={"encoder_lr_share": 0.0}))
    (group,) = groups(frozen, SETTINGS)
    assert len(group["params"]) == sum(1 for parameter in frozen.parameters() if parameter.requires_grad)
    assert not any(parameter.requires_grad for parameter in frozen.encoder)


def test_a_tracker_forgets_what_it_followed_before():
    tracker, draw = SeqTracker(network(), SETTINGS), np.random.default_rng(0)
    frames = draw.integers(0, 256, (6, 48, 64, 3)).astype(np.uint8)

    def track(box: list[float]) -> np.ndarray:
        tracker.start(frames[0], np.array(box))
        return np.stack([tracker.follow(frame) for frame in frames[1:]])

    first = track([10.0, 10, 12, 9])
    track([40.0, 20, 5, 5])
    np.testing.assert_array_equal(track([10.0, 10, 12, 9]), first)
    assert np.isfinite(first).all() and (first[:, 2:] >= SETTINGS.margin).all()


@pytest.mark.parametrize(("update_every", "above", "replaced"), [(1, 0.0, 5), (2, 0.0, 2), (1, 40.1, 0), (0, 0.0, 0)])
def test_the_last_template_is_replaced_where_the_words_are_likely(update_every: int, above: float, replaced: int):
    settings = SETTINGS.model_copy(update={"update_every": update_every, "update_above": above})
    model, seen = network(settings), []
    inner = model.template_patches
    model.template_patches = lambda images: seen.append(images) or inner(images)
    tracker = SeqTracker(model, settings)
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3)).astype(np.uint8)
    tracker.start(frames[0], np.array([10.0, 10, 12, 9]))
    for frame in frames[1:]:
        tracker.follow(frame)
    assert len(seen) == 1 + replaced


def test_a_box_without_area_cannot_be_followed():
    with pytest.raises(ValueError, match="w and h above 0"):
        SeqTracker(network(), SETTINGS).start(np.zeros((9, 9, 3), np.uint8), np.array([1.0, 1, 0, 3]))


def test_bf16_gives_nearly_the_same_words_probabilities():
    model, settings = network(), SETTINGS.model_copy(update={"track_precision": "bf16"})
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    boxes = []
    for one in (SETTINGS, settings):
        tracker = SeqTracker(model, one)
        tracker.start(frames[0], np.array([10.0, 10, 12, 9]))
        boxes.append(tracker.follow(frames[1]))
    assert np.abs(boxes[0] - boxes[1]).max() < 64
