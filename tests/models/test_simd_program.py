import ctypes
import sys
import threading
import time

import pytest
import torch

from mammo_ml.models import simd_program
from mammo_ml.models.simd_program import SimdFunction

LANES = 8


def addresses(*tensors):
    return (ctypes.c_int64 * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def rows_function(work):
    """A function that gives each item its own row of LANES x LANES numbers, of `given` and of `found`."""
    function = SimdFunction(LANES, arrays=("given", "found"), tables=(), room=LANES)

    def item(number):
        start = number * LANES**2
        vectors = [function.load(function.array("given"), start + LANES * row) for row in range(LANES)]
        for row, vector in enumerate(work(function, vectors)):
            function.store(vector, function.array("found"), start + LANES * row)

    return function.compiled(item)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["torchs_threads", "own_threads"])
def either_threads(request, threads, monkeypatch):
    if request.param == "own_threads":
        monkeypatch.setattr(simd_program, "_parallel", lambda: None)
    return threads


def run(work, items=5):
    given = torch.randn(items, LANES, LANES, generator=torch.Generator().manual_seed(0))
    found = torch.full_like(given, torch.nan)
    rows_function(work)(items, given.data_ptr(), found.data_ptr())
    return given, found


def test_every_item_is_done_by_some_thread(either_threads):
    given, found = run(lambda function, vectors: function.transposed(vectors), items=100)
    assert torch.equal(found, given.transpose(1, 2))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch's threads have another entry")
def test_torchs_own_threads_are_found_on_linux():
    assert simd_program._parallel() is not None


def test_several_threads_take_part(monkeypatch):
    taken = []

    def parallel(function, data, count, flags):
        taken.append(count)
        function(data)

    monkeypatch.setattr(simd_program, "_parallel", lambda: parallel)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    run(lambda function, vectors: vectors, items=2)
    torch.set_num_threads(before)
    assert taken == [3]


def test_an_interrupt_waits_for_threads_of_our_own(monkeypatch):
    done, interrupts = [], iter([KeyboardInterrupt, None, KeyboardInterrupt])
    join = threading.Thread.join

    def work():
        time.sleep(0 if threading.current_thread() is threading.main_thread() else 0.3)
        done.append(threading.current_thread())

    def interrupted(thread, timeout=None):
        if error := next(interrupts, None):
            raise error
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simd_program._on_own_threads(work, 4)
    assert len(set(done)) == 4


def test_arithmetic_is_that_of_numbers():
    given, found = run(lambda function, v: [1.5 * v[0] + v[1], 2 - v[0], v[0] - v[1], v[1] * -1, v[2] * v[3], 0 * v[0]])
    a, b, c, d = given[:, :4].unbind(1)
    expected = torch.stack([1.5 * a + b, 2 - a, a - b, -b, c * d, torch.zeros_like(a)], 1)
    torch.testing.assert_close(found[:, :6], expected)
    assert found[:, 6:].isnan().all(), "what was not written to stays"


def test_what_changes_nothing_takes_no_instruction():
    def work(function, vectors):
        one = vectors[0]
        assert one + 0 is one
        assert 0 + one is one
        assert one - 0 is one
        assert one * 1 is one
        assert 0 * one == 0
        return [one]

    given, found = run(work)
    assert torch.equal(found[:, 0], given[:, 0])


def test_sums_are_over_the_lanes_and_numbers_are_spread():
    def work(function, vectors):
        return [function.sums([*vectors[:-1], 0]), function.spread(function.array("given"), 3)]

    given, found = run(work)
    expected = given.sum(2)
    expected[:, -1] = 0
    torch.testing.assert_close(found[:, 0], expected)
    assert (found[:, 1] == given.flatten()[3]).all()


def test_not_a_number_comes_through():
    def work(function, vectors):
        return [vectors[0] + vectors[1] * 0.5]

    given = torch.full((1, LANES, LANES), torch.nan)
    found = torch.zeros_like(given)
    rows_function(work)(1, given.data_ptr(), found.data_ptr())
    assert found[0, 0].isnan().all()


def test_loops_tables_scratch_and_a_room_of_its_own_for_each_thread(threads):
    """Each item adds 1 to 10 to a row of its image, by way of its room."""
    function = SimdFunction(LANES, arrays=("out",), tables=("images",), room=LANES)
    scratch = function.scratch(1)

    def item(number):
        def add_up(step):
            one = function.spread(function.array("out"), 0)  # 1, see below
            function.store(function.load(function.room, 0) + one * 2, scratch, 0)
            function.store(function.load(scratch, 0) - one, function.room, 0)

        image = function.from_table("images", 1, number * LANES)
        function.store(function.load(image, 0), function.room, 0)
        function.loop(0, 10, add_up)
        function.store(function.load(function.room, 0), image, 0)

    program = function.compiled(item)
    images = [torch.zeros(50, LANES), torch.arange(50.0)[:, None].repeat(1, LANES)]
    table, ones = addresses(*images), torch.ones(1)
    program(50, ones.data_ptr(), ctypes.addressof(table))
    assert torch.equal(images[1], torch.arange(50.0)[:, None].repeat(1, LANES) + 10)
    assert not images[0].any()
