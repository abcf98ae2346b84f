# SPDX-License-Identifier: Apache-2.0
"""What is kept when room runs out: what was read again, whatever passes through meanwhile."""

import pytest

from overlaybd_tcmu.cache import policy


def key(letter):
    return letter, 0


def filled(letters, capacity=10, epoch=1):
    one = policy.Policy(capacity, 1)
    for letter in letters:
        one.add(key(letter), 1, epoch)
    return one


def kept(one):
    return "".join(sorted(name for (name, _), _ in one.keys()))


def evict(one, need, heat="", epoch=5, pinned="", read=None):
    """Letters in heat were read in this epoch, or the one given; what went, in its order."""
    taken = one.victims(
        need,
        epoch,
        lambda which: (read or epoch) if which[0] in heat else 0,
        lambda which: which[0] in pinned,
    )
    return "".join(which[0] for which, _ in taken)


def test_oldest_goes_first():
    one = filled("abcdef")
    assert evict(one, 3) == "abc"
    assert kept(one) == "def"
    assert one.used == 3


def test_what_was_read_again_stays():
    one = filled("abcdef")
    assert evict(one, 3, heat="ac") == "bde"
    assert kept(one) == "acf"


def test_reads_of_the_start_itself_do_not_count_as_again():
    one = filled("abcdef", epoch=4)
    assert evict(one, 2, heat="ab", epoch=5) == "ab"


def test_scan_does_not_displace_what_is_read_again():
    one = filled("abcd")
    for number in range(1000):
        one.add(("scan", number), 1, 6)
        evict(one, max(0, one.used - 10), heat="abcd", epoch=7, read=5)
    assert {name for (name, _), _ in one.keys()} == {"a", "b", "c", "d", "scan"}


def test_what_came_back_is_protected_at_once():
    one = filled("abcdefghij")
    assert evict(one, 1) == "a"
    one.add(key("a"), 1, 6)
    assert dict(one.keys())[key("a")]
    assert evict(one, 5, epoch=6) == "bcdef"


def test_protected_goes_when_it_is_not_read_any_more():
    one = filled("abcdef")
    assert evict(one, 1, heat="abcde") == "f"
    assert evict(one, 2, heat="ab", epoch=7) == "cd"
    assert evict(one, 3, epoch=9) == "eab"


def test_pinned_never_goes_and_does_not_keep_others():
    one = filled("abcdefghij")
    assert evict(one, 100, pinned="abcde") == "fghij"
    assert kept(one) == "abcde"
    assert evict(one, 100, pinned="abcde") == ""


def test_pinned_do_not_crowd_probation():
    one = filled("pqrst")
    evict(one, 0, pinned="pqrst")
    for letter in "abcde":
        one.add(key(letter), 1, 5)
    assert evict(one, 5, pinned="pqrst", epoch=6) == "abcde"


def test_room_is_counted_by_what_is_there():
    one = policy.Policy(100, 10)
    one.add(key("a"), 4, 1)
    one.add(key("a"), 4, 1)
    one.add(key("a"), 4, 1)  # an extent has no more than ten
    assert one.used == 10
    assert one.remove(key("a")) == 10
    assert (one.used, len(one)) == (0, 0)


def test_evicting_nothing_ends():
    assert evict(policy.Policy(10, 1), 5) == ""


def test_order_survives():
    one = filled("abcdef")
    evict(one, 1, heat="a")
    again = policy.Policy(10, 1)
    policy.load(again, {which: 1 for which, _ in one.keys()}, iter(list(one.keys())))
    assert list(again.keys()) == list(one.keys())


def test_unknown_extents_go_before_those_whose_order_is_known():
    again = policy.Policy(10, 1)
    found = {key("x"): 1, key("a"): 1}
    policy.load(again, found, iter([(key("a"), False), (key("gone"), True)]))
    assert evict(again, 1) == "x"


@pytest.mark.parametrize("seed_offset", range(3))
def test_used_is_the_sum_whatever_happens(rng, seed_offset):
    one = policy.Policy(50, 4)
    for epoch in range(1, 300):
        one.add(key(rng.choice("abcdefghijklmnopqrstuvwxyz")), rng.randint(1, 4), epoch)
        if rng.random() < 0.3:
            evict(one, rng.randint(1, 20), heat=rng.choice(["", "abc", "xyz"]), epoch=epoch)
        if rng.random() < 0.1:
            one.remove(key(rng.choice("abcdef")))
        assert one.used == sum(one.get(which).count for which, _ in one.keys())
