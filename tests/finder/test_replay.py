"""Every run sees the same batches: from memory, or read again; without touching anybody's random numbers."""

from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrkit.errors import InputError
from lrkit.finder.replay import Replay
from lrkit.snapshot import preserved

X = torch.arange(40.0).reshape(20, 2)


def loader(**given):
    return DataLoader(TensorDataset(X), batch_size=4, shuffle=True, **given)


def first(replay: Replay, count: int) -> list[list[float]]:
    return [batch[0][:, 0].tolist() for batch in islice(replay, count)]


class Noisy(torch.utils.data.Dataset):
    """Augments at random."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return X[i] + torch.rand(2)


class Stream(IterableDataset):
    def __iter__(self):
        yield from X


@pytest.mark.parametrize("limit", [0, 100, 1 << 20], ids=["never kept", "too many", "kept"])
class TestTheSameBatches:
    def test_however_many_are_asked_for(self, limit):
        replay = Replay(loader(), 0, limit)
        long = first(replay, 13)
        assert first(replay, 4) == long[:4] and first(replay, 13) == long
        assert first(replay, 20)[:13] == long

    def test_and_so_for_any_limit(self, limit):
        assert first(Replay(loader(), 3, limit), 12) == first(Replay(loader(), 3), 12)

    def test_in_another_order_each_epoch(self, limit):
        epochs = first(Replay(loader(), 0, limit), 10)
        assert epochs[:5] != epochs[5:] and sorted(chain(*epochs[:5])) == sorted(chain(*epochs[5:]))

    def test_with_the_same_augmentation(self, limit):
        replay = Replay(DataLoader(Noisy(), batch_size=2, shuffle=True), 0, limit)
        one = [batch.clone() for batch in islice(replay, 9)]
        assert all(map(torch.equal, one, islice(replay, 9)))

    def test_of_a_stream(self, limit):
        replay = Replay(DataLoader(Stream(), batch_size=4), 0, limit)
        assert [b[:, 0].tolist() for b in islice(replay, 7)] == [b[:, 0].tolist() for b in islice(replay, 7)]

    def test_whatever_random_numbers_are_drawn_in_between(self, limit):
        replay, calm = Replay(loader(), 0, limit), first(Replay(loader(), 0), 8)
        seen = []
        for batch in islice(replay, 8):
            torch.rand(7)
            seen.append(batch[0][:, 0].tolist())
        assert seen == calm

    def test_without_drawing_any_itself(self, limit):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first(Replay(loader(), 0, limit), 8)
        assert torch.equal(torch.get_rng_state(), before)

    def test_with_a_generator_of_the_loaders_own(self, limit):
        generator = torch.Generator().manual_seed(5)
        batches = loader(generator=generator)
        before = generator.get_state()
        with preserved(batches=batches):
            replay = Replay(batches, 0, limit)
            assert first(replay, 8) == first(replay, 8)
        assert torch.equal(generator.get_state(), before)


class TestRefusals:
    def test_an_iterator(self):
        with pytest.raises(InputError, match="an iterator can be read only once"):
            Replay(iter([1]), 0)

    def test_no_batches(self):
        with pytest.raises(InputError, match="yielded nothing"):
            first(Replay([], 0), 1)


def test_the_batch_size_is_that_of_the_first_tensor_of_any_batch():
    for batch in ((X, 1), {"x": X, "y": 2}, [X], X):
        replay = Replay([batch], 0)
        assert replay.rows is None and len(list(islice(replay, 1))) == 1 and replay.rows == 20
    replay = Replay(["text"], 0)
    assert list(islice(replay, 1)) == ["text"] and replay.rows is None
