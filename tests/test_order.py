"""Which clip comes when: properties over any number of starts, clips a batch, ranks and steps."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tiny import PRETRAIN

from dora.config import PretrainConfig
from dora.data.order import Place, own_places, permuted, starts_at, steps_per_epoch
from dora.seeds import derived_seed

N_STARTS, BATCH, STEP = some.integers(1, 300), some.integers(1, 64), some.integers(0, 20)
WORLD_SIZE, SEED = some.integers(1, 9), some.integers(0, 2**31)
anything = settings(deadline=None, derandomize=True, max_examples=40)


def recipe(batch: int, seed: int = 0) -> PretrainConfig:
    return PRETRAIN.model_copy(update={"clips_per_batch": batch, "seed": seed})


def places(config: PretrainConfig, n_starts: int, first_step: int, n_steps: int, world_size: int = 1) -> list[Place]:
    """What all ranks read, rank after rank."""
    return [
        place
        for rank in range(world_size)
        for place in own_places(
            n_starts, config, first_step=first_step, n_steps=n_steps, rank=rank, world_size=world_size
        )
    ]


def order(n_starts: int, number: int, seed: int = 0) -> np.ndarray:
    """All starts as a pass visits them."""
    return starts_at(np.arange(number * n_starts, (number + 1) * n_starts), n_starts, seed=seed)


@anything
@given(n=some.integers(1, 5000), key=some.integers(0, 2**63 - 1))
def test_every_key_permutes_every_number_of_starts(n: int, key: int):
    assert np.array_equal(np.sort(permuted(np.arange(n), n, key=key)), np.arange(n))


@anything
@given(n=some.integers(1, 2**40), key=some.integers(0, 2**63 - 1), data=some.data())
def test_any_part_of_a_permutation_can_be_computed_by_itself(n: int, key: int, data: some.DataObject):
    numbers = data.draw(some.lists(some.integers(0, n - 1), min_size=1, max_size=20))
    together = permuted(np.array(numbers), n, key=key)
    assert [permuted(np.array([number]), n, key=key)[0] for number in numbers] == together.tolist()
    assert len(set(together.tolist())) == len(set(numbers)) and 0 <= together.min() <= together.max() < n


@anything
@given(n_starts=N_STARTS, batch=BATCH, world_size=WORLD_SIZE, seed=SEED)
def test_every_start_is_visited_once_a_pass_over_all_ranks(n_starts: int, batch: int, world_size: int, seed: int):
    n_steps = -(-3 * n_starts // batch)  # three passes; batches straddle them where they do not divide
    read = sorted(places(recipe(batch, seed), n_starts, 0, n_steps, world_size))
    assert [place.position for place in read] == [*range(n_steps * batch)]
    for first in range(0, 3 * n_starts, n_starts):
        assert sorted(place.start for place in read[first : first + n_starts]) == [*range(n_starts)]


@anything
@given(n_starts=N_STARTS, batch=BATCH, step=STEP, n_more=some.integers(0, 20), world_size=WORLD_SIZE, data=some.data())
def test_a_resumed_rank_goes_on_as_an_unbroken_one(
    n_starts: int, batch: int, step: int, n_more: int, world_size: int, data: some.DataObject
):
    rank, n_steps = data.draw(some.integers(0, world_size - 1)), step + n_more
    unbroken, before, resumed = (
        [*own_places(n_starts, recipe(batch), first_step=first, n_steps=end, rank=rank, world_size=world_size)]
        for first, end in ((0, n_steps), (0, step), (step, n_steps))
    )
    assert before + resumed == unbroken


@anything
@given(n_starts=N_STARTS, batch=BATCH, step=STEP, world_sizes=some.tuples(WORLD_SIZE, WORLD_SIZE))
def test_ranks_may_come_and_go_at_any_step(n_starts: int, batch: int, step: int, world_sizes: tuple[int, int]):
    config, n_steps = recipe(batch), step + 10
    before, after = world_sizes
    read = places(config, n_starts, 0, step, before) + places(config, n_starts, step, n_steps, after)
    assert sorted(read) == places(config, n_starts, 0, n_steps)


@anything
@given(n_starts=N_STARTS, batch=BATCH, step=STEP, shift=some.integers(0, 500), world_size=WORLD_SIZE)
def test_a_stream_that_is_moved_on_skips_so_many_clips(
    n_starts: int, batch: int, step: int, shift: int, world_size: int
):
    config, n_steps = recipe(batch), step + 3
    moved = sorted(
        place
        for rank in range(world_size)
        for place in own_places(
            n_starts, config, first_step=step, n_steps=n_steps, rank=rank, world_size=world_size, shift=shift
        )
    )
    unmoved = places(config, n_starts, 0, n_steps + -(-shift // batch))
    assert moved == unmoved[step * batch + shift : n_steps * batch + shift]


def test_ranks_share_each_batch_evenly():
    for step in range(3):
        shares = [
            len([*own_places(18, recipe(5), first_step=step, n_steps=step + 1, rank=rank, world_size=3)])
            for rank in range(3)
        ]
        assert shares == [2, 2, 1]


def test_passes_and_seeds_have_orders_of_their_own():
    orders = {tuple(order(50, number, seed).tolist()) for number in range(20) for seed in range(20)}
    assert len(orders) == 400


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_permutations_of_a_few_starts_are_equally_likely(n: int):
    n_keys, all_of_them = 3000, [*permutations(range(n))]
    drawn = [tuple(permuted(np.arange(n), n, key=derived_seed("uniform", key)).tolist()) for key in range(n_keys)]
    counts = np.array([drawn.count(one) for one in all_of_them])
    assert chi_square(counts) < CHI_SQUARE[len(counts) - 1]


@pytest.mark.parametrize("n_starts", [97, 128, 1000])
def test_the_order_is_as_random_as_a_shuffle(n_starts: int):
    """Who comes first, who comes where, and how far neighbours are thrown apart, beside numpy's own permutation."""
    n_passes = 2000
    ours = np.stack([order(n_starts, number) for number in range(n_passes)])
    generator = np.random.default_rng(0)
    shuffled = np.stack([generator.permutation(n_starts) for _ in range(n_passes)])
    for orders in (ours, shuffled):
        for place in (0, 1, n_starts // 2, n_starts - 1):  # eight bins of starts
            bins = np.bincount(orders[:, place] * 8 // n_starts, minlength=8)
            expected = np.bincount(np.arange(n_starts) * 8 // n_starts) * n_passes / n_starts
            assert ((bins - expected) ** 2 / expected).sum() < CHI_SQUARE[7]
        # The distance of two numbers drawn from n without putting back is (n + 1) / 3 on average.
        displacement = np.abs(np.diff(orders, axis=1)).mean()
        assert displacement == pytest.approx((n_starts + 1) / 3, rel=0.01)
        ascents = (np.diff(orders, axis=1) > 0).mean()
        assert ascents == pytest.approx(0.5, abs=0.005)
        fixed = (orders == np.arange(n_starts)).sum(1).mean()  # one on average
        assert fixed == pytest.approx(1, abs=0.12)


# With so many degrees of freedom, a value above comes once in ten thousand draws.
CHI_SQUARE = {1: 15.1, 5: 25.7, 7: 29.9, 23: 57.0, 119: 184.0}


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_four_million_starts_take_no_memory():
    far = own_places(4_000_000, recipe(128), first_step=10**7, n_steps=10**7 + 50, rank=0, world_size=1)
    next(far)
    tracemalloc.start()
    read = sum(1 for _ in far)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 50 * 128 - 1 and peak < 1e6


def test_the_order_stays_what_it_is():
    """Written down once: another order would change what a stopped training goes on with."""
    assert order(7, 0).tolist() == [6, 0, 3, 4, 1, 2, 5]
    assert order(7, 1).tolist() == [6, 5, 3, 0, 1, 2, 4]
    assert [place.start for place in places(recipe(4), 10**6, 9, 10)] == [782147, 544158, 497511, 491061]


@pytest.mark.parametrize(("n_starts", "visits"), [(3, {2, 3}), (100, {0, 1})], ids=["short video", "long video"])
def test_an_epoch_of_fixed_length_visits_all_starts_about_equally_often(n_starts: int, visits: set[int]):
    config = recipe(4).model_copy(update={"steps_per_epoch": 2})
    assert steps_per_epoch(n_starts, config) == 2
    starts = [place.start for place in places(config, n_starts, 0, 2)]
    assert len(starts) == 8 and {starts.count(start) for start in range(n_starts)} == visits


def test_what_an_epoch_leaves_over_opens_the_next():
    config = recipe(4)
    assert steps_per_epoch(18, config) == 4  # of 18 starts the last two are read in the second epoch's first step
    second_epoch = [place.start for place in places(config, 18, 4, 5)]
    assert second_epoch[:2] == order(18, 0)[-2:].tolist() and second_epoch[2:] == order(18, 1)[:2].tolist()


def test_too_few_clips_for_a_batch_are_refused_with_what_to_change():
    with pytest.raises(ValueError, match=r"3 clips \(3 starts x 1 passes\), fewer than one batch of 4. Lower"):
        steps_per_epoch(3, PRETRAIN)
    assert steps_per_epoch(3, PRETRAIN.model_copy(update={"passes_per_epoch": 2})) == 1
