"""Packing: what is small is gathered into as few, as even and as large files as fit, and is then left in peace."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.lake.warehouse import is_compacted
from quantlab_dagster.warehouse.pack import Bin, Rules, pack, small_files

TARGET = 100
RULES = Rules(TARGET)
DIRECTORY = "app_id=demo/year=2026/month=01/day=15/hour=10"


def listed(sizes: dict[str, int], directory: str = DIRECTORY) -> list[ObjectInfo]:
    return [ObjectInfo(f"{directory}/{name}", size, f"etag of {name}") for name, size in sizes.items()]


def names(bins: list[Bin]) -> list[str]:
    return [" ".join(file.name for file in chosen) for chosen in bins]


def weight(files: Bin | list[ObjectInfo], shrink: float = 1.0) -> int:
    """Bytes that a merge is expected to make of files."""
    return sum(round(file.size_bytes * (1.0 if is_compacted(file.name) else shrink)) for file in files)


@pytest.mark.parametrize(
    ("sizes", "bins"),
    [
        # What there is to merge.
        pytest.param({}, [], id="nothing"),
        pytest.param({"a": 10}, [], id="one small file"),
        pytest.param({"a": 10, "b": 10}, ["a b"], id="two small files"),
        pytest.param({"a": 0, "b": 0}, ["a b"], id="two empty files"),
        pytest.param({"a": 10, "b": 500, "c": 10, "d": 101}, ["a c"], id="large files stay"),
        pytest.param({"a": 100, "b": 100, "c": 100}, [], id="nothing but large files"),
        pytest.param({"a": 10, "b": 100}, [], id="a file of exactly the target is large"),
        pytest.param({"a": 10, "b": 99}, ["a b"], id="a byte less is small"),
        # What was merged before.
        pytest.param({"a": 10, "b": 10, "compacted_c": 80}, ["a b"], id="settled files stay"),
        pytest.param({"a": 10, "compacted_b": 80}, [], id="one small and one settled file"),
        pytest.param({"a": 10, "compacted_b": 75}, [], id="three quarters of the target are settled"),
        pytest.param({"a": 25, "compacted_b": 74}, ["a compacted_b"], id="a byte less is not settled"),
        pytest.param({"a": 24, "compacted_b": 74}, [], id="but not worth writing anew for less than a third"),
        pytest.param({"a": 9, "b": 9, "compacted_c": 74}, ["a b"], id="the new ones are merged among themselves"),
        pytest.param({"a": 10, "compacted_b": 29, "compacted_c": 74}, ["a compacted_b compacted_c"], id="step by step"),
        pytest.param({"a": 9, "compacted_b": 26, "compacted_c": 74}, ["a compacted_b"], id="each must be worth more"),
        pytest.param(
            {"a": 1, **{f"compacted_{n:02}": 50 for n in range(12)}},
            [],
            id="twelve earlier outputs may stay beside new files",
        ),
        pytest.param(
            {"a": 1, **{f"compacted_{n:02}": 20 + n for n in range(13)}},
            ["a " + " ".join(f"compacted_{n:02}" for n in range(5))],
            id="thirteen are too many, and the smallest are merged",
        ),
        pytest.param({"a": 10, "b": 75}, ["a b"], id="only what was merged before settles early"),
        pytest.param({"a": 10, "a_compacted_b": 75}, ["a a_compacted_b"], id="only a name's beginning counts"),
        pytest.param({"compacted_a": 10, "compacted_b": 10}, [], id="only compacted files, though small"),
        pytest.param({f"compacted_{n}": 1 for n in "abcdefghijklm"}, [], id="thirteen of them"),
        pytest.param(
            {f"compacted_{n}": 1 for n in "abcdefghijklmn"},
            ["compacted_" + " compacted_".join("abcdefghijklmn")],
            id="fourteen are more than merges leave",
        ),
        pytest.param({f"compacted_{n:02}": 75 for n in range(20)}, [], id="settled ones may be many"),
        pytest.param({"compacted_a": 10, "compacted_b": 10, "c": 100}, [], id="a new large file changes nothing"),
        pytest.param(
            {"compacted_a": 10, "compacted_b": 10, "c": 4}, ["c compacted_a compacted_b"], id="with a new one"
        ),
        # How much goes into one output.
        pytest.param({"a": 99, "b": 99, "c": 2}, ["a b c"], id="twice the target is one output"),
        pytest.param({"a": 90, "b": 90, "c": 11, "d": 10}, ["a c", "b d"], id="a byte more are two"),
        pytest.param({"a": 99, "b": 99, "c": 3}, ["a c"], id="a file alone in its bin stays"),
        pytest.param(dict.fromkeys("abcdefgh", 99), ["a e", "b f", "c g", "d h"], id="pairs"),
        pytest.param(dict.fromkeys("abcde", 67), ["a d", "b e"], id="coarse files take more bins than their bytes"),
        pytest.param(dict.fromkeys("abc", 70), ["a c"], id="three coarse files are one too many"),
        pytest.param(
            dict.fromkeys("abcdefghijklmnopqrstu", 10),
            ["a c e g i k m o q s u", "b d f h j l n p r t"],
            id="two even outputs rather than a full one and a sliver",
        ),
        # In which order.
        pytest.param({"b": 90, "a": 10}, ["a b"], id="keys are in order within a bin"),
        pytest.param({"d": 90, "a": 80, "c": 30, "b": 20}, ["a c", "b d"], id="bins are in order of their first keys"),
        pytest.param({"e": 60, "d": 60, "c": 60, "b": 60, "a": 60}, ["a c e", "b d"], id="ties are broken by key"),
        pytest.param(
            dict.fromkeys(["😀", "\uffee", "é", "e\u0301", "z", "a", "B"], 1),
            ["B a e\u0301 z é \uffee 😀"],
            id="names are in byte order",
        ),
        pytest.param(
            dict.fromkeys(["😀", "\uffee", "z", "é"], 60),
            ["z \uffee", "é 😀"],
            id="ties are broken by bytes",
        ),
    ],
)
def test_files_are_packed(sizes: dict[str, int], bins: list[str]) -> None:
    files = listed(sizes)
    chosen = pack(files, RULES)
    assert names(chosen) == bins
    assert {file for found in chosen for file in found} <= set(files)
    assert pack(files[::-1], RULES) == chosen
    assert pack(files, Rules(TARGET, min_files=0)) == pack(files, Rules(TARGET, min_files=1)) == chosen


@pytest.mark.parametrize(
    ("sizes", "min_files", "bins"),
    [
        pytest.param({"a": 10, "b": 10}, 3, [], id="too few"),
        pytest.param({"a": 10, "b": 10, "c": 10}, 3, ["a b c"], id="just enough"),
        pytest.param({"a": 10, "b": 10, "c": 100}, 3, [], id="large files do not count"),
        pytest.param({"a": 10, "b": 10, "compacted_c": 75}, 3, [], id="settled files do not count"),
        pytest.param({"a": 13, "b": 13, "compacted_c": 74}, 3, ["a b compacted_c"], id="small compacted ones do"),
        pytest.param({"a": 9, "b": 9, "compacted_c": 74}, 3, ["a b"], id="also where they stay"),
        pytest.param({"a": 10}, 1, [], id="a single file is never merged"),
        pytest.param(dict.fromkeys("abcdefgh", 99), 8, ["a e", "b f", "c g", "d h"], id="a bin may have fewer"),
    ],
)
def test_partitions_of_few_small_files_are_left_alone(sizes: dict[str, int], min_files: int, bins: list[str]) -> None:
    assert names(pack(listed(sizes), Rules(TARGET, min_files))) == bins


@pytest.mark.parametrize(
    ("sizes", "shrink", "bins"),
    [
        pytest.param(dict.fromkeys("abcd", 99), 1.0, ["a c", "b d"], id="without, twice the target"),
        pytest.param(dict.fromkeys("abcd", 99), 0.5, ["a b c d"], id="at a half, twice as many bytes"),
        pytest.param(dict.fromkeys("abcde", 99), 0.5, ["a c e", "b d"], id="at a half, no more than that"),
        pytest.param(dict.fromkeys("abc", 60), 1.5, ["a c"], id="what grows takes more bins"),
        pytest.param(
            {"a": 99, "b": 99, "compacted_c": 70, "compacted_d": 70},
            0.5,
            ["a compacted_c", "b compacted_d"],
            id="what was merged before does not shrink again",
        ),
        pytest.param({"a": 100, "b": 99}, 0.5, [], id="whether a file is small does not depend on it"),
        pytest.param({"a": 40, "b": 40, "compacted_c": 70}, 1.5, ["a b compacted_c"], id="nor does it grow again"),
        pytest.param({"a": 90, "b": 90}, 4.0, [], id="what would outgrow an output by itself stays"),
        pytest.param({"a": 99, "b": 99, "c": 99}, 3.0, [], id="however many there are"),
        pytest.param({"a": 90, "b": 1, "c": 1, "d": 1}, 3.0, ["b c d"], id="and keeps others from nothing"),
        pytest.param({"a": 50, "b": 50, "c": 51}, 4.0, [], id="twice the target does not outgrow, but fills an output"),
        pytest.param({"a": 50, "b": 0, "c": 51}, 4.0, ["a b"], id="a byte more outgrows"),
        pytest.param(
            {"a": 60, "compacted_b": 1, "compacted_c": 1}, 4.0, [], id="it is no new file to go with old ones"
        ),
        # As floats these add up to a little more or less than twice the target, depending on the order.
        pytest.param({"a": 74, "b": 98, "c": 78}, 0.8, ["a b c"], id="weights add up exactly"),
        pytest.param({"b": 98, "c": 78, "a": 74}, 0.8, ["a b c"], id="weights add up exactly in any order"),
    ],
)
def test_new_files_weigh_what_a_merge_is_expected_to_make_of_them(
    sizes: dict[str, int], shrink: float, bins: list[str]
) -> None:
    assert names(pack(listed(sizes), RULES, shrink)) == bins


def test_only_a_file_s_own_name_tells_that_it_was_merged_before() -> None:
    files = listed({"a": 10, "b": 75}, "app_id=x/compacted_y")
    assert names(pack(files, RULES)) == ["a b"]


def test_small_files_keep_their_order() -> None:
    files = listed({"z": 99, "b": 100, "a": 0, "compacted_x": 75, "compacted_a": 74, "c": 500})
    assert [file.name for file in small_files(files, RULES)] == ["z", "a", "compacted_a"]


def test_outputs_are_as_large_as_wanted_from_the_target_to_twice_that() -> None:
    assert [RULES.in_range(size) for size in (0, 99, 100, 200, 201)] == [False, False, True, True, False]


def test_the_defaults_are_those_of_the_warehouse() -> None:
    assert Rules() == Rules(target_size=134_217_728, min_files=2)


# ---- whatever the files ----------------------------------------------------------------------------------------------

FILES = st.lists(
    st.tuples(
        st.sampled_from(["events_{}", "events_{}", "a_{}", "compacted_{}"]),
        st.one_of(st.integers(0, 130), st.integers(0, 8), st.sampled_from([50, 51, 67, 74, 75, 99, 100])),
    ),
    max_size=40,
).map(lambda found: listed({name.format(f"{index:02}"): size for index, (name, size) in enumerate(found)}))
RULE_SETS = st.builds(Rules, st.just(TARGET), st.integers(0, 6))
SHRINKS = st.one_of(st.just(1.0), st.floats(0.05, 4.0), st.integers(1, 40).map(lambda tenths: tenths / 10))


@settings(max_examples=300, deadline=None)
@given(FILES, RULE_SETS, SHRINKS)
def test_bins_are_disjoint_and_hold_two_or_more_small_files_of_bounded_weight(
    files: list[ObjectInfo], rules: Rules, shrink: float
) -> None:
    bins = pack(files, rules, shrink)
    chosen = [file for found in bins for file in found]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(files)
    for found in bins:
        assert len(found) >= 2
        assert weight(found, shrink) <= 2 * TARGET
        assert list(found) == sorted(found, key=lambda file: file.key.encode())
        for file in found:
            assert file.size_bytes < (75 if is_compacted(file.name) else 100)
    assert [found[0].key for found in bins] == sorted(found[0].key for found in bins)


@settings(max_examples=300, deadline=None)
@given(FILES, RULE_SETS, st.floats(0.05, 1.0))
def test_whoever_looks_finds_work_in_the_same_partitions_whatever_the_expectation(
    files: list[ObjectInfo], rules: Rules, shrink: float
) -> None:
    assert bool(pack(files, rules, shrink)) == bool(pack(files, rules))
    small = small_files(files, rules)
    new = [file for file in small if not is_compacted(file.name)]
    if len(small) < max(2, rules.min_files) or not (new or len(small) > 13):
        assert pack(files, rules) == []
    elif len(new) > 1:
        assert {file for found in pack(files, rules) for file in found} & set(new)


@settings(max_examples=300, deadline=None)
@given(FILES, RULE_SETS)
def test_no_new_file_is_left_alone_for_a_small_output_and_no_large_output_is_taken_for_little(
    files: list[ObjectInfo], rules: Rules
) -> None:
    chosen = {file for found in pack(files, rules) for file in found}
    small = set(small_files(files, rules))
    left = [file for file in small - chosen if is_compacted(file.name)]
    taken = sum(is_compacted(file.name) for file in chosen)
    if chosen and sum(file.size_bytes for file in small) <= 2 * TARGET:
        assert all(file.size_bytes > 3 * 0.7**taken * weight(list(chosen)) or len(left) == 8 for file in left)
        assert len(left) <= 12


@settings(max_examples=200, deadline=None)
@given(FILES, SHRINKS)
def test_what_fits_into_one_output_becomes_one(files: list[ObjectInfo], shrink: float) -> None:
    bins = pack(files, RULES, shrink)
    small = [file for file in small_files(files, RULES) if weight([file], shrink) <= 2 * TARGET]
    if bins and weight(small, shrink) <= 2 * TARGET:
        assert len(bins) == 1
        assert {file for file in small if not is_compacted(file.name)} <= set(bins[0])


@settings(max_examples=200, deadline=None)
@given(FILES, SHRINKS, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(files: list[ObjectInfo], shrink: float, random_order: Random) -> None:
    shuffled = list(files)
    random_order.shuffle(shuffled)
    assert pack(shuffled, RULES, shrink) == pack(files, RULES, shrink)


@settings(max_examples=200, deadline=None)
@given(FILES)
def test_where_there_are_several_outputs_none_is_a_sliver(files: list[ObjectInfo]) -> None:
    """Neither is what stays behind: more than half the target each, provably, however coarse the files are."""
    bins = pack(files, RULES)
    small = small_files(files, RULES)
    if bins and weight(small) > 2 * TARGET and all(not is_compacted(file.name) for file in small):
        left = set(small) - {file for found in bins for file in found}
        assert min([weight(found) for found in bins] + [weight([file]) for file in left]) > TARGET // 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=60))
def test_fine_files_make_the_fewest_outputs_of_even_sizes(sizes: list[int]) -> None:
    files = listed({f"{index:02}": size for index, size in enumerate(sizes)})
    weights = [weight(found) for found in pack(files, RULES)]
    assert sum(weights) == sum(sizes)
    assert max(weights) - min(weights) <= max(sizes)
    fewest = max(1, -(-sum(sizes) // (2 * TARGET)))
    assert len(weights) in (fewest, fewest + 1)
    assert len(weights) == fewest or sum(sizes) > fewest * (2 * TARGET - max(sizes))


# ---- merge after merge -----------------------------------------------------------------------------------------------


class Partition:
    """A partition that is compacted as compact.py does it: the first bin is merged, and all is looked at anew."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules = rules
        self.files: list[ObjectInfo] = []
        self.merges = 0
        self._written = 0

    def write(self, sizes: list[int]) -> None:
        for size in sizes:
            self._written += 1
            # Scattered, as uuids are.
            self._add(f"events_{self._written * 7919 % 10007:05}", size)

    def settle(self, ratios: Random | None = None, *, learn: bool = False) -> None:
        shrink, most = 1.0, self.merges + len(self.files)
        while bins := pack(self.files, self.rules, shrink):
            assert self.merges < most, "it goes on for ever"
            ratio = ratios.uniform(0.3, 1.2) if ratios else 1.0
            self.merges += 1
            self.files = [file for file in self.files if file not in bins[0]]
            self._add(f"compacted_{self.merges * 7919 % 10007:05}", round(weight(bins[0]) * ratio))
            shrink = min(ratio, 1.0) if learn else 1.0

    def _add(self, name: str, size: int) -> None:
        self.files += listed({name: size})


BATCHES = st.lists(
    st.lists(st.one_of(st.integers(1, 99), st.integers(1, 10), st.integers(60, 120)), max_size=15),
    min_size=1,
    max_size=4,
)


@pytest.mark.guards("consolidated-twice")
@settings(max_examples=150, deadline=None)
@given(BATCHES, st.integers(2, 5), st.randoms(use_true_random=False), st.booleans())
def test_compaction_comes_to_an_end_and_then_finds_nothing_to_do(
    batches: list[list[int]], min_files: int, ratios: Random, learn: bool
) -> None:
    partition = Partition(Rules(TARGET, min_files))
    for sizes in batches:
        partition.write(sizes)
        files, merges = len(partition.files), partition.merges
        partition.settle(ratios, learn=learn)
        rounds = partition.merges - merges
        assert rounds < max(1, files)
        assert len(partition.files) <= files - rounds
        for shrink in (1.0, 0.3, 0.05):
            assert pack(partition.files, partition.rules, shrink) == []


@settings(max_examples=150, deadline=None)
@given(BATCHES)
def test_what_is_left_small_is_little_beside_what_it_stays_beside(batches: list[list[int]]) -> None:
    """The small outputs grow by steps, so that there are few of them, and one new file at most."""
    partition = Partition()
    for sizes in batches:
        partition.write(sizes)
        partition.settle()
        small = sorted(small_files(partition.files, RULES), key=lambda file: file.size_bytes)
        assert len(small) <= 14
        assert sum(file.size_bytes for file in partition.files if is_compacted(file.name)) <= sum(map(sum, batches))
        assert all(file.size_bytes <= 2 * TARGET for file in partition.files)


def trickled(outputs: list[int], late: list[int]) -> tuple[float, int]:
    """Bytes written for a byte that came late beside outputs, one file a run; and the most files there were."""
    partition = Partition(Rules(128 << 20))
    for number, size in enumerate(outputs):
        partition._add(f"compacted_x{number}", size)
    written = most = 0
    for size in late:
        partition.write([size])
        before = {file.name for file in partition.files}
        partition.settle()
        written += sum(file.size_bytes for file in partition.files if file.name not in before)
        most = max(most, len(partition.files))
    return written / sum(late), most


LATE = {
    "the same size": [10_000] * 168,
    "growing": [1_000 + 100 * n for n in range(168)],
    "shrinking": [20_000 - 100 * n for n in range(168)],
    "in bursts": [1_000 if n % 7 else 60_000 for n in range(168)],
    "of any size": [round(10 ** Random(n).uniform(3, 5)) for n in range(168)],
    "100 kB each": [100_000] * 168,
    "1 MB each": [1_000_000] * 168,
}


@pytest.mark.guards("late-file-rewrites")
@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_a_late_file_an_hour_for_a_week_is_written_eight_times_at_most(late: list[int]) -> None:
    """Whatever lies there: nothing, or an output of any size."""
    sizes = [0, *(round(5_000 * 1.4**n) for n in range(33)), 56_000_000, 90 << 20, 127 << 20, 256 << 20]
    found = [trickled([size] if size else [], late) for size in sizes]
    assert max(amplification for amplification, _ in found) <= 8
    assert max(most for _, most in found) <= 9


@pytest.mark.guards("late-file-rewrites")
@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("number", range(2, 9))
def test_nor_is_it_written_more_often_beside_several_outputs(number: int, late: list[int]) -> None:
    random, mean, found = Random(number), sum(late) / len(late), []
    for _ in range(4):
        first, step = 2 ** random.uniform(0, 9), random.uniform(1, 2.5)
        found.append(trickled([round(mean * first)] * number, late))
        found.append(trickled([round(mean * first * step**n) for n in range(number)], late))
        found.append(trickled([round(mean * 2 ** random.uniform(0, 13)) for _ in range(number)], late))
    assert max(amplification for amplification, _ in found) <= 8
    assert max(most for _, most in found) <= 13 + number  # those of more than the target stay anyway


@pytest.mark.parametrize(
    ("megabytes", "outputs", "largest"),
    [
        ([127] * 1000, 500, 254),
        ([120, 0.01], 1, 121),
        ([64] * 1000, 250, 256),
        ([n / 8 for n in range(1, 1017)], None, 256),
        ([127 - n / 8 for n in range(1000)], None, 256),
    ],
)
def test_odd_sizes_become_outputs_of_the_size_that_is_wanted(
    megabytes: list[float], outputs: int | None, largest: int
) -> None:
    rules = Rules(128 << 20)
    files = listed({f"{n:04}": round(size * (1 << 20)) for n, size in enumerate(megabytes)})
    bins = pack(files, rules)
    sizes = [weight(found) for found in bins]
    assert outputs is None or len(bins) == outputs
    assert max(sizes) <= largest << 20
    if len(bins) > 1:
        assert min(sizes) >= 128 << 20
    assert sum(map(len, bins)) == len(files)


def test_a_late_file_joins_the_small_output_and_only_that() -> None:
    partition = Partition()
    partition.write([50] * 5 + [20])
    partition.settle()
    assert sorted(file.size_bytes for file in partition.files) == [120, 150]
    partition.write([30])
    partition.settle()
    assert sorted(file.size_bytes for file in partition.files) == [30, 120, 150]
    partition.write([10])
    partition.settle()
    assert sorted(file.size_bytes for file in partition.files) == [40, 120, 150]
    partition.write([5])
    partition.settle()
    assert sorted(file.size_bytes for file in partition.files) == [5, 40, 120, 150], "not worth it yet"
    partition.write([10])
    partition.settle()
    assert sorted(file.size_bytes for file in partition.files) == [55, 120, 150]
    assert partition.merges == 4
