"""Selective training: each epoch has the images with the highest running loss, and some others at random."""

import math
from dataclasses import replace

from support import selection, training
from support.selection import WHOLE_EPOCHS, Selection

import numpy as np
import pytest
from conftest import SMALL, batches_of

import student


@pytest.fixture
def batches(digits):
    return batches_of(digits.train, 20, seed=3)


@pytest.mark.quick
def test_an_epoch_has_the_hardest_images_and_some_others_each_once(batches):
    chosen = Selection(batches, 0.4)
    assert [chosen.rows(number) for number in range(1, WHOLE_EPOCHS + 1)] == [None] * WHOLE_EPOCHS
    losses = np.random.default_rng(0).permutation(220).astype(np.float32)
    chosen.running_loss.assign(losses)
    first, second = chosen.rows(4), chosen.rows(5)
    assert first.shape == (4, 20) and len({*first.ravel()}) == 80  # two fifths of 220 are 88, and 80 fill four batches
    hard = {*np.flatnonzero(losses >= 160)}  # three quarters of 80
    assert hard <= {*first.ravel()} and hard <= {*second.ravel()}
    assert {*first.ravel()} != {*second.ravel()}
    assert hard & {*first.ravel()[:20]} != hard  # they are spread over the batches
    np.testing.assert_array_equal(chosen.rows(4), first)
    batches.seed = 4
    assert {*chosen.rows(4).ravel()} != {*first.ravel()}


@pytest.mark.quick
def test_the_running_loss_is_a_moving_average_and_what_was_never_seen_comes_first(batches):
    chosen = Selection(batches, 0.4)
    rows = batches.order(1)[0]
    chosen.update(1, None, np.full(rows.shape, 2.0, np.float32))
    np.testing.assert_array_equal(chosen.running_loss.numpy(), 2.0)
    chosen.update(2, rows[:1], np.full((1, 20), 1.0, np.float32))
    expected = np.full(220, 2.0)
    expected[rows[0]] = 0.7 * 2 + 0.3 * 1
    np.testing.assert_allclose(chosen.running_loss.numpy(), expected, rtol=1e-6)
    expected[7] = math.inf
    chosen.running_loss.assign(expected)
    assert 7 in chosen.rows(4) and 7 in chosen.rows(5)


def test_a_net_is_trained_on_what_it_finds_hard_in_as_many_steps_as_its_schedule_has(digits, monkeypatch):
    """A fifth of the labels are wrong: what the net cannot learn is what it comes back to."""
    wrong = np.arange(220) % 5 == 0
    labels = np.where(wrong, (digits.train.labels + 1) % 3, digits.train.labels).astype(np.int32)
    split = digits.train._replace(labels=labels)
    seen, rows = [], Selection.rows
    monkeypatch.setattr(Selection, "rows", lambda self, number: seen.append(rows(self, number)) or seen[-1])
    recipe = replace(SMALL, epochs=8, select=0.3, hidden=(32,))
    batches = batches_of(split, 20)
    net = student.build_student(*digits.form, recipe, 0)
    trainer = training.Trainer(net, batches, training.cross_entropy, recipe)
    (history,) = training.train([trainer])
    assert [row.epoch for row in history] == [*range(1, 9)]
    optimizer = trainer.listeners.optimizer
    assert int(optimizer.iterations) == trainer.selection.total_steps(8) == 3 * 11 + 5 * 3
    assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-6)  # the schedule has come to its end
    assert np.mean(wrong[seen[-1]]) > 0.3 and len(seen) == 5
    whole = training.Trainer(net, batches, training.cross_entropy, replace(recipe, select=1.0))
    assert whole.selection is None and not whole.selects_in(8)


def test_a_share_of_less_than_a_batch_is_a_batch(batches):
    chosen = Selection(batches, 0.01)
    assert chosen.rows(4).shape == (1, 20) and chosen.total_steps(5) == 3 * 11 + 2 and chosen.total_steps(2) == 22
    assert selection.RANDOM_PART * 20 == 5
